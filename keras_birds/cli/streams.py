"""Standard output as programs and terminals of every system can read it."""

import json
import sys
from io import TextIOWrapper
from typing import Any

import click


def tolerate_any_letter() -> None:
    """Has letters that a stream's encoding lacks written as `?`: elsewhere than on Linux it is often not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def encode_output(errors: str = "replace", encoding: str | None = "utf-8") -> None:
    """Has standard output in UTF-8 from now on, as files that other programs read are.

    Args:
        errors: what becomes of file names that aren't UTF-8: `"surrogateescape"` gives their bytes back.
        encoding: another one; `None` is the terminal's.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors=errors)


def echo_json(data: Any, indent: int | None = 2) -> None:
    """Prints plain data; file names that aren't UTF-8 have their bytes as `\\udcXX`."""
    encode_output("backslashreplace")
    click.echo(json.dumps(data, indent=indent, ensure_ascii=False))
