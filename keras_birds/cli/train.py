"""`keras-birds train`: train one fold, all of them, or on all recordings."""

from functools import partial
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_birds.cli.options import (
    ANY_PATH,
    LearnedChoice,
    config_options,
    data_option,
    learned_options,
    ray_option,
    resolve_data_dir,
)
from keras_birds.cli.reporting import make_reporter, text_table

if TYPE_CHECKING:
    from keras_birds.training.train import RunResult


@click.command()
@data_option
@learned_options
@click.option(
    "--fold",
    metavar="N|all|full",
    help="Fold to train, or all; full takes all recordings. [default: 0, with --embeddings all]",
)
@click.option("--out", type=ANY_PATH, metavar="RUN", help="The run: a new folder. [default: runs/<time>]")
@click.option("--resume", is_flag=True, help="Go on with the run in --out or the newest one.")
@click.option(
    *("--rounds", "rounds"),
    type=click.IntRange(min=1),
    help="Noisy students: so many runs in --out, each taught by the one before, the first by data.pseudo.",
)
@ray_option("folds")
@config_options
def train(
    data_dir: Path | None,
    learned: LearnedChoice,
    fold: str | None,
    out: Path | None,
    resume: bool,
    rounds: int | None,
    ray_address: str | None,
    config_name: str,
    overrides: tuple[str, ...],
) -> None:
    """Train one fold, all of them, or a model on all recordings.

    \b
    keras-birds train --data birdclef --fold 0
    keras-birds train --data birdclef --fold all --out runs/baseline
    keras-birds train --data my-clips --config smoke --set training.epochs=20
    KERAS_BACKEND=jax keras-birds train --data birdclef --fold 0
    keras-birds train --data /shared/birdclef --fold all --out /shared/run --ray auto
    keras-birds train --embeddings season1.emb --reviews season1.emb/marks --config head --out runs/my-call
    keras-birds train --data birdclef --fold all --config student --set data.pseudo=pseudo --rounds 3 --out runs/student

    The run directory gets the settings, the split, a manifest of all recordings, and for each fold
    model.keras, model.onnx, model.json, history.csv and oof.parquet (out-of-fold scores). The best epoch by
    validation macro-AUC is kept (training.keep = "last": the last one).

    With --embeddings a head is trained in seconds on what `keras-birds embed` stored: of windows that people reviewed
    (--reviews), or of labelled recordings (--data). It is joined to the model that the store was made with: each fold
    is one model from sound to labels, and `keras-birds detect STORE` scores the whole store with it.

    --fold full trains on every recording that isn't hidden, for use once the folds have told how good the recipe is.

    With --rounds, students of `keras-birds pseudo`: round 1 learns from data.pseudo as well, then its models label the
    same recordings by the same rules (--power, --floor, ...) for round 2, and so on. --out gets a run for each,
    round_1, round_2, ..., its labels in round_1/pseudo, and rounds.csv: macro AUC out-of-fold (round 0: of the models
    that labelled first), windows, labels a window, CPU minutes.

    After Ctrl-C or a kill, the same command with --resume goes on: at most the running epoch is lost, and the
    outcome is that of an uninterrupted run.

    With --ray each fold is a task on a node of the cluster: one GPU where there are GPUs, else all processors of
    a node. The data set and the run must be on storage that all nodes see. A task whose process dies is started
    again and goes on from its last whole epoch.
    """
    from keras_birds.config import Config
    from keras_birds.errors import ConfigError

    config = Config.load(config_name, (*learned.overrides, *overrides))
    is_reviews = bool(config.data.embeddings and config.data.reviews)
    if is_reviews and data_dir is not None:
        raise ConfigError(
            f"--embeddings are learned from with --reviews or --data. Received: both, --data {data_dir}"
        )
    data = Path(config.data.reviews) if is_reviews else resolve_data_dir(data_dir, config)
    fold = ("all" if config.data.embeddings else "0") if fold is None else fold
    if fold not in ("all", "full") and not fold.isdecimal():
        raise ConfigError(f"--fold must be a number from 0, all or full. Received: {fold}")
    if ray_address is not None and rounds is not None:
        raise ConfigError(
            "--rounds are trained on this machine. Received: --ray as well; train and label each round by itself: "
            "keras-birds train --ray, keras-birds pseudo --ray"
        )
    if ray_address is not None:
        from keras_birds.distributed.cluster import check_address

        check_address(ray_address)
    from keras_birds.suppress_output import import_tensorflow_quietly

    import_tensorflow_quietly()
    from keras_birds.distributed.train import train_on_cluster
    from keras_birds.training.train import train as train_here

    train_run = train_here if ray_address is None else partial(train_on_cluster, ray_address)
    which = int(fold) if fold.isdecimal() else fold
    with make_reporter() as reporter:
        try:
            if rounds is None:
                said = _summary(train_run(config, data, which, out, resume, reporter))
            else:
                said = _train_rounds(config, data, which, out, rounds, resume, reporter)
        except KeyboardInterrupt:
            reporter.log("Stopped. The same command with --resume goes on after the last whole epoch.")
            raise
    click.echo(said)


def _train_rounds(*arguments: Any) -> str:
    """Trains rounds as `train_rounds`, draws what each labelled for the next, and says how they ended."""
    from keras_birds.plots.figure import save_png
    from keras_birds.plots.pseudo_labels import pseudo_labels
    from keras_birds.results.pseudo import FIGURE, MEAN_TABLE, SUMMARY, PseudoLabels
    from keras_birds.training.rounds import LABELLED, ROUNDS, rounds_table, train_rounds

    for known in train_rounds(*arguments):
        folder = known[-1].folder / LABELLED
        if (folder / SUMMARY).is_file() and not (folder / FIGURE).is_file():
            labels = PseudoLabels(folder).about["tables"][MEAN_TABLE]
            save_png(pseudo_labels(labels, f"{folder.parent.name}/{LABELLED}"), folder / FIGURE)
    last = known[-1].folder
    table = rounds_table(known).astype(object)
    rows = table.where(table.notna(), nan).itertuples(index=False)
    said = text_table([str(x).replace("_", " ") for x in table], *rows)
    return f"{said}\nRounds: {last.parent / ROUNDS}\nNext: keras-birds predict clip.ogg --model {last}"


def _summary(result: "RunResult") -> str:
    rows = [(x.fold, x.macro_auc, f"{x.kept_epoch}/{x.epochs}") for x in result.folds]
    if len(rows) > 1:
        rows.append(("mean", result.mean_macro_auc, ""))
    return (
        text_table(("fold", "macro AUC", "kept epoch"), *rows)
        + f"\nRun: {result.out}\nNext: keras-birds predict clip.ogg --model {result.out}"
    )
