"""Walks folders and expands globs, folder by folder, on any file system that can list one."""

import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

_AUDIO = """
wav wave bwf rf64 bw64 w64 wac aif aiff aifc au snd caf flac ogg oga opus spx mp1 mp2 mp3 mpa m4a m4b aac ac3 eac3 dts
amr awb wma wv ape tta tak mpc gsm g722 voc iff 8svx dsf ra rm mka weba webm mkv mp4 m4v mov 3gp 3g2 3ga asf avi flv mpg
mpeg vob ogv ogx mts m2ts
"""
_SIDECAR_SUFFIXES = """
csv tsv txt json jsonl geojson toml yaml yml xml md rst html htm pdf doc docx rtf xls xlsx ods parquet feather arrow db
sqlite sqlite3 log ini cfg conf md5 sha1 sha256 kml gpx textgrid cue m3u png jpg jpeg gif svg bmp tif tiff webp heic npy
npz mat pkl h5 onnx keras py ipynb r rmd sh bat asd pek sfk reapeaks lock
"""
AUDIO_SUFFIXES = frozenset(f".{x}" for x in _AUDIO.split())
"""Of the files that are taken from folders: what libsndfile or ffmpeg reads. A file that is named itself may be called
anything."""

_SIDECARS = {"readme", "license", "licence", "makefile", "changes", "sha256sums", "md5sums"}
_SIDECARS |= {f".{x}" for x in _SIDECAR_SUFFIXES.split()}
_NAMED = 3

Kind = Literal["file", "folder", "link"]
"""A link is one to a folder."""

OnProblem = Callable[[str, str], None]
"""Is told the name of a folder or list and what is wrong with it."""


def has_magic(name: str) -> bool:
    """Whether a name may be a glob."""
    return any(x in name for x in "*?[")


def is_audio_name(name: str) -> bool:
    """Whether a file of this name in a folder is taken for a recording: by its suffix, and not a hidden one."""
    path = PurePath(name)
    return path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


@dataclass(frozen=True)
class Tree:
    """Folders of one file system.

    What is found comes folder by folder, sorted: a folder's files, then its folders. Hidden ones are left out, links to
    folders are followed only where a glob names them. Told are folders that can't be listed, and files that are neither
    audio by their suffix nor a table, text or picture such as lie beside recordings; the others go on.

    Args:
        entries: names in a folder (`""` is the current one) and what they are; raises `OSError`.
        on_problem: is told of both.
    """

    entries: Callable[[str], Iterable[tuple[str, Kind]]]
    on_problem: OnProblem
    separator: str = os.sep

    def walk(self, folder: str) -> Iterator[str]:
        """The audio files in a folder, at any depth; tells at the end what else lies there."""
        top, waiting, strange = folder, [folder], []
        while waiting:
            folder = waiting.pop()
            found = [x for x in self._list(folder) if not x[0].startswith(".")]
            for name, kind in found:
                if kind == "file" and is_audio_name(name):
                    yield self._join(folder, name)
                elif kind == "file" and not {PurePath(name).suffix.lower(), name.lower()} & _SIDECARS:
                    strange.append(self._join(folder, name))
            waiting += [self._join(folder, name) for name, kind in reversed(found) if kind == "folder"]
        if strange:
            shown = ", ".join(repr(x) for x in strange[:_NAMED])
            more = f" and {len(strange) - _NAMED} more" if len(strange) > _NAMED else ""
            count = f"{len(strange)} file{'s' * (len(strange) != 1)} of unknown kind"
            self.on_problem(top, f"holds {count}, left out: {shown}{more}; name those that are sound")

    def expand(self, folder: str, parts: Sequence[str]) -> Iterator[str]:
        """The files that match a glob, whatever they are called, and the audio files in folders that match.

        The glob begins in `folder` and is given in parts; `**` is any number of folders, hidden names need a part that
        begins with a point.
        """
        while len(parts) > 1 and not has_magic(parts[0]):
            folder, parts = self._join(folder, parts[0]), parts[1:]
        return self._expand(folder, parts, {0}, may_lack=True)

    def _expand(
        self, folder: str, parts: Sequence[str], live: set[int], may_lack: bool = False
    ) -> Iterator[str]:
        """Lists a folder once; `live` are the parts of the glob that its names may match."""
        for i, part in enumerate(parts):
            if part == "**" and i in live:
                live.add(i + 1)
        if len(parts) in live:
            yield from self.walk(folder)
            return
        for name, kind in self._list(folder, may_lack):
            path = self._join(folder, name)
            matched = {i + (parts[i] != "**") for i in live if _matches(name, kind, parts[i])}
            if kind == "file":
                yield from (path,) if len(parts) in matched else ()
            elif matched:
                yield from self._expand(path, parts, matched)

    def _list(self, folder: str, may_lack: bool = False) -> list[tuple[str, Kind]]:
        try:
            return sorted(self.entries(folder), key=lambda entry: (entry[1] != "file", entry[0]))
        except OSError as error:
            if not (may_lack and isinstance(error, FileNotFoundError | NotADirectoryError)):
                self.on_problem(folder or os.curdir, f"can't be listed ({error.strerror or error})")
            return []

    def _join(self, folder: str, name: str) -> str:
        return f"{folder}{'' if not folder or folder.endswith(self.separator) else self.separator}{name}"


def _matches(name: str, kind: Kind, part: str) -> bool:
    if name.startswith(".") and not part.startswith("."):
        return False
    return kind == "folder" if part == "**" else fnmatch.fnmatch(name, part)
