"""Finds the audio files in folders."""

import os
from collections.abc import Iterable
from pathlib import Path

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".mp4"}
    | {".wma", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64", ".webm"}
)
"""Of the files that are taken from folders; a file that is named itself may be called anything."""


def find_recordings(paths: Iterable[Path]) -> list[Path]:
    """Files as they are named, and the audio files in folders, sorted, at any depth, each once.

    In folders, hidden files and folders are left out and links to folders aren't followed.

    Raises:
        OSError: if a folder can't be read.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            found[path] = None
            continue
        for folder, folders, files in os.walk(path, onerror=_raise):
            folders[:] = sorted(x for x in folders if not x.startswith("."))
            for name in sorted(files):
                if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES:
                    found[Path(folder, name)] = None
    return list(found)


def _raise(error: OSError) -> None:
    raise error
