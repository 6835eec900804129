"""`keras-birds demo`: the main job on a data set made on the spot."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_birds.cli.options import NEW_FOLDER
from keras_birds.cli.reporting import make_reporter, text_table

if TYPE_CHECKING:
    from keras_birds.training.train import RunResult


@click.command()
@click.option("--out", type=NEW_FOLDER, default=Path("demo"), help="Folder for data set, run and figure.")
def demo(out: Path) -> None:
    """Train and predict on a small data set made on the spot.

    Eight invented species sing, each in its own way, over wind and one another. One fold is trained at small
    size, measured on recordings that it never heard, and asked about one more. Two minutes on two cores.

    \b
    keras-birds demo
    keras-birds demo --out somewhere
    """
    from keras_birds.config import Config
    from keras_birds.data.synthetic import make_synthetic
    from keras_birds.suppress_output import import_tensorflow_quietly

    started = time.perf_counter()
    data, run = out / "data", out / "runs" / time.strftime("%Y%m%d-%H%M%S")
    import_tensorflow_quietly()
    with make_reporter() as reporter:
        example = make_synthetic(
            data, progress=lambda done, total: reporter.progress("Making recordings", done, total)
        )
        reporter.progress("Making recordings", 0, 0)
        from keras_birds.training.train import train

        result = train(Config.load("smoke"), data, 0, run, reporter=reporter)
    click.echo(_label_table(result))
    _predict(result, example, out / "example.png")
    fold = result.folds[0]
    seconds = time.perf_counter() - started
    click.echo(f"macro ROC-AUC {fold.macro_auc:.4f} on unheard recordings, {seconds:.0f} s in all")
    click.echo(f"Data set: {data}\nRun:      {result.out}\nModel:    {fold.folder / 'model.onnx'}")
    click.echo(f"Figure:   {out / 'example.png'}")
    click.echo(f"Next: keras-birds predict CLIP --model {result.out}, or keras-birds train --data DIR")


def _label_table(result: "RunResult") -> str:
    from keras_birds.nn.metrics import label_aucs
    from keras_birds.run_layout import OOF
    from keras_birds.training.oof import OutOfFold

    fold = result.folds[0]
    oof = OutOfFold.read(fold.folder / OOF)
    aucs, positives = label_aucs(oof.targets, oof.scores), (oof.targets >= 0.5).sum(axis=0)
    rows = zip(oof.labels, positives, map(float, aucs), strict=True)
    mean = "mean", len(oof.paths), fold.macro_auc
    return text_table(("label", "recordings", "ROC-AUC"), *rows, mean) + "\n"


def _predict(result: "RunResult", example: Path, figure: Path) -> None:
    from keras_birds.inference.aggregate import aggregate, answer
    from keras_birds.inference.classifier import load
    from keras_birds.plots.prediction import prediction_figure
    from keras_birds.results.report import TableWriter

    classifier = load(result.folds[0].folder)
    found = classifier.score_file(example)
    prediction = answer(found.recording, aggregate(found.scores), classifier.labels)
    TableWriter(sys.stdout).add(prediction)
    prediction_figure(classifier, prediction, figure)
