"""A visitor's own files: uploads lie in a folder that only this session knows, and go with it."""

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

from keras_birds.app.example import write_example
from keras_birds.atomic import atomic_path
from keras_birds.audio import files
from keras_birds.errors import KerasBirdsError
from keras_birds.text import printable

_MAX_NAME = 120


class SessionFolder:
    """A temporary folder; names in it are made here, never by the visitor."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="keras-birds-app-", ignore_cleanup_errors=True)
        self.path = Path(self._temporary.name)

    def save_upload(self, file_id: str, data: memoryview) -> Path:
        """Writes an upload, once for each id that Streamlit gave it; a `KerasBirdsError` where there is no room."""
        path = self.path / hashlib.sha256(file_id.encode()).hexdigest()[:32]
        if not path.exists():
            if shutil.disk_usage(self.path).free < 2 * len(data):
                rule = "The app's machine must have room for uploads"
                raise KerasBirdsError(
                    f"{rule}. Received: {len(data) / 1e6:.0f} MB more. Free some space there"
                )
            with atomic_path(path) as temporary:
                temporary.write_bytes(data)
        return path

    def example(self) -> Path:
        """The example recording."""
        path = self.path / "example"
        if not path.exists():
            with atomic_path(path) as temporary:
                write_example(temporary)
        return path

    def close(self) -> None:
        """Removes everything."""
        self._temporary.cleanup()


def recordings_in(folder: Path) -> tuple[list[Path], list[str]]:
    """Recordings below a folder, sorted, without links that lead out of it; and what is told of the rest."""
    root, notes = folder.resolve(), []
    found = files.recordings_in(folder, lambda name, reason: notes.append(f"{name} {reason}"))
    return sorted(x for x in map(Path, found) if x.is_file() and x.resolve().is_relative_to(root)), notes


def display_name(name: str) -> str:
    """An upload's name as text: on one line, without folders, not too long."""
    text = "".join(x if x.isprintable() else " " for x in name.replace("\\", "/").rpartition("/")[2])
    text = " ".join(text.split()) or "upload"
    return text if len(text) <= _MAX_NAME else f"{text[: _MAX_NAME - 9]}…{text[-8:]}"


def plain(text: str) -> str:
    """Text of unknown origin for Streamlit's Markdown: shown as it is, without links, images or formulas."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~$:])", r"\\\1", printable(text))
