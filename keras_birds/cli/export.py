"""`keras-birds export`: one file from sound to probabilities, for other programs."""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import click

from keras_birds.cli.options import NEW_FILE, check_folder_of, choice_option, model_path
from keras_birds.cli.reporting import make_reporter
from keras_birds.export.formats import SUFFIX, Format, Input, Precision, check_format

if TYPE_CHECKING:
    import numpy as np

    from keras_birds.models.metadata import ModelMetadata

_MAX_CLIPS = 64


@click.command()
@click.argument("model", type=model_path, metavar="MODEL")
@click.option(
    "--out",
    type=NEW_FILE,
    required=True,
    help="File to write: .onnx, .xml (OpenVINO), .tflite (LiteRT) or .pt2.",
)
@click.option(
    "--format", "fmt", type=click.Choice(get_args(Format)), help="Kind of the file. [default: as --out ends]"
)
@choice_option(
    "--input",
    get_args(Input),
    "What goes in: sound, for probabilities, or mel images, for logits.",
    "input_kind",
)
@choice_option(
    "--precision",
    get_args(Precision),
    "How weights are stored: float16 takes half the room, int8-weights a quarter.",
)
@click.option("--embedding", is_flag=True, help="Give each clip's embedding as well, in ONNX files.")
@click.option(
    "--prune",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="RATIO",
    help="Leave out this share of the channels inside each block, and train the run's folds a little further on its "
    "recordings; they go to RUN-pruned-RATIO.",
)
@click.option(
    "--soup",
    is_flag=True,
    help="Write one model with the mean of the folds' weights, in place of the mean of what they give: as fast as one "
    "fold. For folds that were fine-tuned from the same weights.",
)
@click.option(
    "--clips",
    type=click.Path(exists=True, path_type=Path),
    help="Recordings to compare on. [default: the run's]",
)
def export(
    model: Path,
    out: Path,
    fmt: str | None,
    input_kind: str,
    precision: str,
    embedding: bool,
    prune: float | None,
    soup: bool,
    clips: Path | None,
) -> None:
    """Write MODEL as one file that other programs run without keras-birds.

    \b
    keras-birds export animals --out animals-sound.onnx --precision float16
    keras-birds export birdnet --out birdnet.tflite
    keras-birds export birdnet --out birdnet-sound.onnx --embedding
    keras-birds export runs/all --out birds.onnx                  # the mean of the run's folds
    keras-birds export runs/all --out birds.onnx --soup           # one model of the mean of their weights
    keras-birds export runs/all/fold0 --out birds.tflite          # for phones and boards
    keras-birds export runs/all/fold0 --out small.onnx --prune 0.3 --precision int8-weights
    keras-birds predict clip.ogg --model birds.onnx

    The file takes float32 [batch, samples] at the model's rate (BirdNET's 48,000 Hz, 3 s: 144,000 samples) and gives
    [batch, label] probabilities, with --embedding also the [batch, size] that the head takes; labels, settings and
    licence are in its metadata. It is written only if it gives what the model gives on the clips. docs/edge.md uses it
    from Python, in a browser and in C++.

    OpenVINO writes FILE.bin beside FILE.xml. OpenVINO and LiteRT need pip install 'keras-birds[export]'; LiteRT and
    torch need a model.keras, as runs and BirdNET have, and torch has float32 only.
    """
    chosen = _format(fmt, out)
    check_folder_of(out, "--out")
    from keras_birds.export.exporter import export_model
    from keras_birds.models.find import resolve_model
    from keras_birds.models.metadata import ModelMetadata

    paths = resolve_model(model, "onnx")
    check_format(paths, chosen, cast(Precision, precision))
    if prune is not None:
        if soup:
            raise click.UsageError("--soup is of folds as they are. Received: --prune as well")
        paths = _pruned(paths, prune)
    samples, source = _clips(paths[0], ModelMetadata.read_onnx(paths[0]), clips)
    kind = cast(Input, input_kind)
    with tempfile.TemporaryDirectory() as folder:
        if soup:
            paths = _souped(paths, Path(folder), samples, source)
        parity = export_model(paths, out, kind, cast(Precision, precision), samples, chosen, embedding)
    size = sum(x.stat().st_size for x in {out, out.with_suffix(".bin") if chosen == "openvino" else out})
    click.echo(
        f"{out}: {size / 1e6:.1f} MB; on {parity.clips} {source} probabilities differ by at most "
        f"{parity.max_difference:.2g}, {parity.mean_difference:.2g} on average; the same label on top in "
        f"{parity.same_top:.1%}"
    )
    click.echo(
        f"Next: {f'keras-birds predict clip.ogg --model {out}' if chosen == 'onnx' else 'docs/edge.md'}"
    )


def _souped(paths: tuple[Path, ...], folder: Path, clips: "np.ndarray", source: str) -> tuple[Path, ...]:
    """The soup of a run's folds, in a folder; what it gives beside the mean of theirs is told."""
    from keras_birds.models.engines import load_engine
    from keras_birds.models.ensemble import Ensemble
    from keras_birds.suppress_output import import_tensorflow_quietly

    import_tensorflow_quietly()
    from keras_birds.training.soup import make_soup

    with make_reporter() as reporter:
        made = (make_soup(paths, folder, reporter),)
    expected, found = (Ensemble([load_engine(x) for x in y]).score_clips(clips) for y in (paths, made))
    same = (expected.argmax(axis=1) == found.argmax(axis=1)).mean()
    click.echo(
        f"Soup of {len(paths)} folds: on {len(clips)} {source} its probabilities differ from the folds' mean by "
        f"{abs(expected - found).mean():.2g} on average; the same label on top in {same:.1%}"
    )
    return made


def _format(fmt: str | None, out: Path) -> Format:
    """As the file's name says, which must agree with what is asked for."""
    found = next((name for name, suffix in SUFFIX.items() if suffix == out.suffix.lower()), None)
    if found is None or fmt not in (None, found):
        wanted = f"{SUFFIX[fmt]} for {fmt}" if fmt else ", ".join(SUFFIX.values())
        raise click.BadParameter(f"must end in {wanted}. Received: {out}", param_hint="--out")
    return cast(Format, found)


def _pruned(paths: tuple[Path, ...], ratio: float) -> tuple[Path, ...]:
    from keras_birds.suppress_output import import_tensorflow_quietly

    import_tensorflow_quietly()
    from keras_birds.training.pruned import train_pruned

    with make_reporter() as reporter:
        result = train_pruned(paths, ratio, reporter)
    for x in result.folds:
        click.echo(f"{x.folder}: macro AUC {x.macro_auc:.4f}")
    return tuple(x.folder / "model.onnx" for x in result.folds)


def _clips(path: Path, metadata: "ModelMetadata", folder: Path | None) -> "tuple[np.ndarray, str]":
    """Clips to compare on, and what they are: of the folder, of the run's data set, or made."""
    import numpy as np

    from keras_birds.audio.decode import decode_clip
    from keras_birds.audio.files import find_inputs
    from keras_birds.config import Config
    from keras_birds.data.tables import load_table
    from keras_birds.errors import AudioError, DataError
    from keras_birds.models.example_sound import example_clips
    from keras_birds.run_layout import MANIFEST
    from keras_birds.training.run_directory import read_data_dir

    run = path.parent.parent
    data = folder or (read_data_dir(run) if (run / "config.toml").is_file() else None)
    if data is None or not data.exists():
        return example_clips(metadata.audio, metadata.mel), "test sounds"
    if (
        folder is None
        and (run / "config.toml").is_file()
        and Config.load(run / "config.toml").data.embeddings
    ):
        # Of such a run the data's folder holds marks.
        learned = load_table(run / MANIFEST, "a manifest", ("path",))["path"]
        data, files = run / MANIFEST, [x for x in learned if Path(x).is_file()]
        if not files:
            return example_clips(metadata.audio, metadata.mel), "test sounds"
    else:
        files = list(find_inputs((str(data),), sys.stdin.buffer, lambda *_: None))
    step = max(1, len(files) // _MAX_CLIPS)
    found = []
    for file in files[::step][:_MAX_CLIPS]:
        try:
            found.append(decode_clip(file, metadata.audio).samples)
        except AudioError as error:
            click.echo(f"Warning: {error}", err=True)
    if not found:
        raise DataError(f"--clips must hold recordings that can be read. Received: none in {data}")
    return np.stack(found).astype(np.float32), f"clips of {data}"
