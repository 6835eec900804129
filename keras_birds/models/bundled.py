"""The models that come with keras-birds, each `assets/NAME.onnx` with its card `NAME.md`."""

from pathlib import Path

from keras_birds.resources import resource

DEFAULT = "animals"
"""What predicts where nothing was trained yet."""


def bundled_models() -> dict[str, Path]:
    """The shipped models' files by name, sorted."""
    return {x.stem: x for x in sorted(resource("assets").glob("*.onnx"))}


def bundled_name(path: Path) -> str:
    """The name of a shipped model's file; empty for another file."""
    return path.stem if path in bundled_models().values() else ""


def card_of(path: Path) -> Path | None:
    """The card of a shipped model's file: its data, licence, figures and limits; `None` for another file."""
    card = path.with_suffix(".md")
    return card if bundled_name(path) and card.is_file() else None
