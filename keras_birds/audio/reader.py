"""One open recording: a local file or a URL, whose content decides how it is read and not its name.

libsndfile reads it, part by part where the file's own bytes say so (`layout`), else ffmpeg where that is installed.
"""

import io
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import soundfile

from keras_birds.audio import flac, mp3, ogg, wav
from keras_birds.audio.chain import Chain, SndFile, mix
from keras_birds.audio.ffmpeg import FfmpegFile
from keras_birds.audio.layout import CUT_OFF, Layout, SeekableFile, Window
from keras_birds.audio.remote import file_fingerprint, is_url, open_url
from keras_birds.errors import AudioError, detail_of

MIN_SECONDS = 0.05
"""Shorter recordings are `too short`: they hold no frame's worth of sound at any sensible setting."""

MIN_RATE_HZ = 1000
SHORTFALL_S = 0.1
_BLOCK_SAMPLES = 1 << 18
_SALVAGE_FRAMES = 1024
# Formats of libsndfile's whose frames it finds at once.
_SEEKABLE = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "FLAC"})
_UNKNOWN_FRAMES = 1 << 36
_UNKNOWN_BYTES = 0x7F00_0000
# What libsndfile tells of a data chunk that is longer than the file, in AIFF, AU, SVX, W64 and others.
_SHORTER = re.compile(r"^\s*(?:data|riff|SSND|BODY|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)


class Reader:
    """One open recording, of a path or a URL.

    Attributes:
        rate_hz: as recorded, as are the `channels`.
        subtype: how samples are written, as `soundfile` calls it.
        frames: how many there are, as far as the header knows; `None` where it doesn't.
        seconds_promised: by the header; NaN where it doesn't say, as that of an Ogg that is cut off.

    Raises:
        AudioError: if it can't be opened as audio, or holds less than `MIN_SECONDS`.
        ConfigError: if a package that a URL needs isn't installed.
    """

    def __init__(self, name: str | Path):
        self.name = check_file(name)
        # libsndfile opens a local file by its name where it reads it whole.
        self._source = _Guarded(open_url(str(self.name))) if is_url(self.name) else None
        try:
            self._layout = self._look_through()
            self._file = self._open()
            self.rate_hz, self.channels = int(self._file.samplerate), int(self._file.channels)
            self.subtype = str(self._file.subtype)
            # Headers without a length (streams) count as libsndfile's largest number.
            self.frames: int | None = int(self._file.frames) if self._file.frames < _UNKNOWN_FRAMES else None
            if self.rate_hz < MIN_RATE_HZ:
                told = f"its header says {self.rate_hz} Hz; at least {MIN_RATE_HZ} Hz is needed"
                raise AudioError(self.name, told)
            if self.frames is not None:
                check_length(self.name, self.frames, self.rate_hz)
            self._problem = self._layout.problem
            # A smaller difference from what the header promises is no truncation.
            self.shortfall_s = float(getattr(self._file, "shortfall_s", SHORTFALL_S))
            self.seconds_promised = self._promised()
            self._first, self._held = 0, np.zeros((0, self.channels), np.float32)
            self._check_readable()
        except BaseException:
            self.close()
            raise

    def _look_through(self) -> Layout:
        if self._source is not None:
            layout = layout_of(self._source, is_remote=True)
            self._source.seek(0)
            self._check_readable()
            return layout
        try:
            return _local_layout(Path(self.name), *file_fingerprint(self.name))
        except OSError as error:
            raise AudioError(self.name, error.strerror or str(error), "unreadable") from None

    def _open(self) -> SndFile | Chain | FfmpegFile:
        try:
            return self._open_parts() if self._layout.parts else self._open_whole()
        except soundfile.LibsndfileError as error:
            self._check_readable()
            refused = error
        layout, head = self._layout, self._search_mp3()
        if self._layout.parts:
            with suppress(soundfile.LibsndfileError):
                return self._open_parts()
        self._layout = layout
        reason = _open_reason(refused)
        if not any(x < 9 or 13 < x < 32 for x in head):  # a text
            raise AudioError(self.name, reason)
        if isinstance(self.name, Path):
            return FfmpegFile(self.name, reason)
        hint = "or needs ffmpeg, which reads local files only: download it first"
        raise AudioError(self.name, f"{reason}, {hint}", "unreadable")

    def _open_whole(self) -> SndFile | Chain:
        if not isinstance(self.name, Path):
            return SndFile(self._source)
        # soundfile takes a name that ends in .raw for headerless data, but not an open file; and a name that isn't
        # UTF-8 as bytes only.
        if self.name.suffix.lower() == ".raw":
            return SndFile(self._opened())
        sound = SndFile(self.name if os.name == "nt" else os.fsencode(self.name))
        if sound.format == "MP3" and not self._layout.is_exact:
            self._search_mp3()
            if self._layout.parts:
                sound.close()
                return self._open_parts()
        return sound

    def _search_mp3(self) -> bytes:
        """Looks for MP3 behind what it doesn't begin with; the file's first bytes."""
        with nullcontext(self._source) if self._source else Path(self.name).open("rb", buffering=0) as file:
            self._layout = mp3.layout_of(file, file.seek(0, os.SEEK_END))
            file.seek(0)
            return file.read(512)

    def _open_parts(self) -> SndFile | Chain:
        source = self._opened()
        sounds = [SndFile(Window(source, x), **(x.raw or {})) for x in self._layout.parts]
        return sounds[0] if len(sounds) == 1 else Chain(sounds)

    def _opened(self) -> Any:
        if self._source is None:
            self._source = _Guarded(Path(self.name).open("rb", buffering=0))  # noqa: SIM115 - closed by `close`
        return self._source

    def _promised(self) -> float:
        if isinstance(self._file, FfmpegFile):
            return self._file.seconds
        if self.frames is None:
            return math.nan
        promised = round(self.frames * self._layout.promised)
        found = _SHORTER.search(getattr(self._file, "extra_info", ""))
        if found and not self._layout.is_exact and int(found[2]) < int(found[1]) < _UNKNOWN_BYTES:
            promised = self.frames * int(found[1]) // max(1, int(found[2]))
            if promised - self.frames > SHORTFALL_S * self.rate_hz:
                self._problem = self._problem or CUT_OFF
        return math.nan if self._problem and promised == self.frames else promised / self.rate_hz

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; doing so twice is fine."""
        if hasattr(self, "_file"):
            self._file.close()
        if self._source is not None:
            self._source.close()

    @property
    def problem(self) -> str:
        """Why not all of the sound is there; of what ffmpeg reads it is known at the end."""
        return self._problem or getattr(self._file, "problem", "")

    @property
    def knows_length(self) -> bool:
        """Whether `frames` is what decodes, as far as can be told without decoding."""
        return self.frames is not None and not self._problem

    @property
    def seeks(self) -> bool:
        """Whether any part is read as quickly as the first one, and is the same as of the whole."""
        return self.knows_length and getattr(self._file, "format", "") in _SEEKABLE

    def reaches_end(self) -> bool:
        """Whether the last frame that the header promises decodes; otherwise the middle lies elsewhere."""
        if self.frames is None or self._layout.is_exact:
            return self.frames is not None
        try:
            self._file.seek(self.frames - 1)
            return len(self._file.read(1, "float32", True)) == 1
        except (soundfile.LibsndfileError, RuntimeError):
            return False

    def read(self, start: int, count: int | None) -> np.ndarray:
        """Mono float32 `[n]`, n <= count: all that decodes from frame `start` on."""
        blocks = [mix(x)[:, 0] for x in self.blocks(start, count)] or [np.zeros(0, np.float32)]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def segment(self, first: int, last: int) -> np.ndarray:
        """Float32 frames `[n, channels]` from `first` to before `last`, fewer at the end.

        Best asked for from the first to the last: what was read last is kept.
        """
        end = self._first + len(self._held)
        if not self._first <= first <= end:
            self._first, self._held, end = first, self._held[:0], first
        if last > end:
            kept = self._held[first - self._first :]
            self._held = np.concatenate([kept, *self.blocks(end, last - end)])
            self._first = first
        return self._held[first - self._first : last - self._first]

    def blocks(self, start: int = 0, count: int | None = None) -> Iterator[np.ndarray]:
        """All that decodes from frame `start` on, at most `count` frames, in blocks, float32 `[n, channels]`.

        Where the data are damaged, what lies before the damage comes in small steps from a second reading, so that
        little of it is lost.

        Raises:
            AudioError: if a URL can no longer be read.
        """
        stop = start + count if count is not None else self.frames
        place = start
        try:
            if self._file.tell() != start:
                self._file.seek(start)
            for frames in self._raw_blocks(max(1, _BLOCK_SAMPLES // self.channels), start, stop):
                place += len(frames)
                yield frames
        except (soundfile.LibsndfileError, RuntimeError):
            self._check_readable()
        else:
            self._check_readable()
            return
        try:
            with Reader(self.name) as again:
                done = 0
                for frames in again._raw_blocks(_SALVAGE_FRAMES, 0, stop):
                    done += len(frames)
                    if done > place:
                        yield frames[max(0, len(frames) - (done - place)) :]
        except (soundfile.LibsndfileError, RuntimeError):
            self._check_readable()

    def _raw_blocks(self, block: int, start: int, stop: int | None) -> Iterator[np.ndarray]:
        while stop is None or start < stop:
            frames = self._file.read(block if stop is None else min(block, stop - start), "float32", True)
            if len(frames) == 0:
                return
            start += len(frames)
            yield frames

    def _check_readable(self) -> None:
        if self._source is not None and (error := self._source.error) is not None:
            raise AudioError(self.name, f"can no longer be read ({detail_of(error)})", "unreadable") from None


class _Guarded(io.RawIOBase):
    """A file whose errors are kept: libsndfile calls it from C, where an exception would only be printed."""

    def __init__(self, file: BinaryIO):
        self.error: Exception | None = None
        self._file: Any = file

    def _guard(self, call: Callable[..., int], *arguments: Any) -> int:
        try:
            return 0 if self.error else call(*arguments)
        except Exception as error:
            self.error = error
            return 0

    def readinto(self, buffer: Any) -> int:
        return self._guard(self._file.readinto, buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._guard(self._file.seek, offset, whence)

    def close(self) -> None:
        self._file.close()


def check_file(name: str | Path) -> str | Path:
    """The path or URL; an `AudioError` if a local file is missing, empty, a folder or not readable."""
    if is_url(name):
        return str(name)
    path = Path(name)
    try:
        if not path.exists():
            raise AudioError(path, "no such file", "missing")
        if not path.is_file():
            raise AudioError(path, "is not a file" if not path.is_dir() else "is a folder", "unreadable")
        if path.stat().st_size == 0:
            raise AudioError(path, "is empty (0 bytes)", "empty")
        with path.open("rb"):
            pass
    except OSError as error:
        raise AudioError(path, error.strerror or str(error), "unreadable") from None
    return path


def check_length(name: str | Path, frames: int, rate_hz: int) -> None:
    """Raises an `AudioError`, `empty` or `too short`, unless there is a sound."""
    if frames <= 0:
        raise AudioError(name, "holds no samples", "empty")
    if frames / rate_hz < MIN_SECONDS:
        samples = f"{frames} sample{'s' * (frames != 1)}"
        raise AudioError(name, f"holds {samples}; at least {MIN_SECONDS:g} s is needed", "too short")


def layout_of(file: SeekableFile, is_remote: bool = False) -> Layout:
    """Looks an open file through; of a large remote Ogg only both ends, where they belong together."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"OggS":
        return ogg.layout_of(file, size, is_remote)
    if head[:4] == b"fLaC":
        return flac.layout_of(file, size)
    if head[:4] in wav.MAGIC and head[8:] == b"WAVE":
        return wav.layout_of(file, size)
    return mp3.layout_of(file, size) if mp3.may_be(head) else Layout()


@lru_cache(maxsize=4096)
def _local_layout(path: Path, *fingerprint: int) -> Layout:  # noqa: ARG001 - of the cache
    with path.open("rb", buffering=0) as file:
        return layout_of(file)


def layout_problem(path: str | Path) -> str:
    """Why a local file doesn't hold all of its sound, as far as its bytes tell without decoding."""
    return _local_layout(Path(path), *file_fingerprint(path)).problem


def _open_reason(error: Exception) -> str:
    text = str(getattr(error, "error_string", error)).rstrip(".")
    if "SF_INFO struct incomplete" in text:
        return "its header is invalid: 0 Hz or no channels"
    if "not recognised" in text:
        return "is not audio"
    # libsndfile says "File does not exist" of an MP3 without a whole frame.
    return "holds no audio that decodes" if "does not exist" in text else f"is damaged ({text})"
