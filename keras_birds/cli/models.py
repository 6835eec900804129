"""`keras-birds models` and `keras-birds info`: which models are here, and what they are."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_birds.cli.options import ModelType, format_option

if TYPE_CHECKING:
    from keras_birds.export.metadata import ModelMetadata


@click.command()
@format_option
def models(form: str) -> None:
    """List the models that are here: shipped ones, and the finished folds of runs in runs/.

    \b
    keras-birds models
    keras-birds predict clip.ogg --model animals
    """
    rows = list(_rows())
    if form == "json":
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    header = ["model", "from", "labels", "macro AUC", "MB", "licence"]
    cells = [
        [_cell(row[x]) for x in ("model", "from", "labels", "macro_auc", "mb", "licence")] for row in rows
    ]
    widths = [max(len(x) for x in column) for column in zip(header, *cells, strict=True)]
    for line in [header, *cells]:
        click.echo("  ".join(x.ljust(w) for x, w in zip(line, widths, strict=True)).rstrip())
    click.echo("`keras-birds info MODEL` tells more of one")


@click.command()
@click.argument("model", type=ModelType(), metavar="MODEL")
@format_option
def info(model: Path, form: str) -> None:
    """Tell what MODEL is: a shipped model's name, a run, a fold's folder, or an .onnx file.

    \b
    keras-birds info animals
    keras-birds info runs/all
    """
    from keras_birds.export.metadata import ModelMetadata
    from keras_birds.inference.bundled import card_of
    from keras_birds.inference.runs import resolve_model

    paths = resolve_model(model, "onnx")
    found = [ModelMetadata.read_onnx(path) for path in paths]
    card = card_of(paths[0])
    text = card.read_text(encoding="utf-8") if card is not None else ""
    if form == "json":
        members = [{"file": str(path), **x.to_dict()} for path, x in zip(paths, found, strict=True)]
        click.echo(json.dumps({"card": text, "members": members}, indent=2, ensure_ascii=False))
        return
    if text:
        _print_card(text)
    for path, metadata in zip(paths, found, strict=True):
        click.echo("\n".join(_describe(path, metadata)))


def _rows() -> Iterator[dict[str, Any]]:
    from keras_birds.errors import ModelError
    from keras_birds.export.metadata import ModelMetadata
    from keras_birds.inference.bundled import bundled_models
    from keras_birds.inference.runs import resolve_model
    from keras_birds.resources import RUNS_DIR

    files = [(name, "keras-birds", path) for name, path in bundled_models().items()]
    for run in sorted(x for x in RUNS_DIR.glob("*") if x.is_dir()):
        try:
            files += [(str(path.parent), "training", path) for path in resolve_model(run, "onnx")]
        except ModelError:
            continue  # an unfinished run has no model yet
    for name, origin, path in files:
        metadata = ModelMetadata.read_onnx(path)
        macro_auc = metadata.metrics.get("macro_auc", math.nan)
        yield {
            "model": name,
            "from": origin,
            "labels": len(metadata.labels),
            "macro_auc": None if math.isnan(macro_auc) else macro_auc,
            "mb": round(path.stat().st_size / 1e6, 1),
            "licence": metadata.licence,
            "file": str(path),
        }


def _cell(value: object) -> str:
    if value is None or value == "":
        return "–"
    return f"{value:.4f}" if isinstance(value, float) and value < 1.5 else str(value)


def _print_card(text: str) -> None:
    import sys

    if not sys.stdout.isatty():
        click.echo(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(emoji=False).print(Markdown(text))


def _describe(path: Path, metadata: "ModelMetadata") -> Iterator[str]:
    audio, mel = metadata.audio, metadata.mel
    yield f"model id     {metadata.model_id}"
    yield f"file         {path}"
    yield f"licence      {metadata.licence or 'not given'}"
    yield f"audio        {audio.sample_rate_hz:,} Hz, clips of {audio.clip_s:g} s"
    rows = f"{mel.n_mels} mel bins" if mel.feature == "mel" else f"{mel.n_mfcc} MFCC"
    yield (
        f"input        {mel.height} x {mel.width} image of {rows}, {mel.f_min_hz:g} to {mel.f_max_hz:g} Hz, "
        f"n_fft {mel.n_fft}, hop {mel.hop_samples}"
    )
    figures = [f"{name} {value:.6g}" for name, value in metadata.metrics.items() if not math.isnan(value)]
    yield f"metrics      {', '.join(figures) or 'none'}"
    calibration = metadata.calibration
    yield "calibration  " + (
        "none"
        if calibration is None
        else f"{calibration.method}, expected error {calibration.error_before:.4f} before, "
        f"{calibration.error_after:.4f} after"
    )
    yield f"labels       {len(metadata.labels)}"
    for item in metadata.labels.items:
        names = ", ".join(x for x in (item.common_name, item.scientific_name, item.class_name) if x)
        yield f"  {item.name}" + (f"  ({names})" if names else "")
