"""Reads recordings of any format, rate and channel count as mono float32 at the asked rate.

The content decides how a file is read, not its name: libsndfile reads WAV, FLAC, OGG, MP3, AIFF and more,
ffmpeg where it is installed reads what libsndfile can't (M4A, AAC, WMA, ...). A file either gives samples
that it really holds or an `AudioError` with its reason; nothing is made up.
"""

import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
import soxr

from keras_birds.audio import ffmpeg, tfio
from keras_birds.audio.clips import crop_start, fill
from keras_birds.config import AudioConfig
from keras_birds.errors import AudioError

MIN_SECONDS = 0.05
"""Shorter recordings are `too short`: they hold no frame's worth of sound at any sensible setting."""

MIN_RATE_HZ = 1000
_BLOCK_FRAMES = 1 << 18
_SALVAGE_FRAMES = 1024
# MP3 headers count encoder padding in various ways: a smaller shortfall is no truncation.
_SHORTFALL_S = 0.1
_RESAMPLE_MARGIN_S = 0.05
# Of these libsndfile counts what the file holds, whatever its header promises.
_TRUE_LENGTH = frozenset({"OGG", "WAV", "WAVEX", "RF64"})
_OGG_TAIL_BYTES = 1 << 17
_CUT_OFF = "the file is cut off"


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says.

    Args:
        seconds: length; NaN where the header leaves it out.
        sample_rate_hz: as recorded.
        channels: as recorded.
    """

    seconds: float
    sample_rate_hz: int
    channels: int


@dataclass(frozen=True)
class Decoded:
    """Samples that a file really holds.

    Args:
        samples: float32 `[n]`, mono: the mean over channels.
        sample_rate_hz: of `samples`, as asked.
        seconds_expected: what the header promises of the asked part; NaN where it doesn't say.
        seconds_read: what decoded.
        status: `"ok"`, `"partial"` (truncated or damaged: what decodes is kept) or `"silent"` (all zeros).
        reason: why the status isn't ok, for instance "read 3.2 of 5.0 s".
    """

    samples: np.ndarray
    sample_rate_hz: int
    seconds_expected: float
    seconds_read: float
    status: str = "ok"
    reason: str = ""


def probe(path: str | Path) -> AudioInfo:
    """Reads a file's header.

    Raises:
        AudioError: if the file can't be opened as audio, or holds less than `MIN_SECONDS`.
    """
    path = _check_file(path)
    try:
        with _Reader(path) as reader:
            seconds = math.nan if reader.frames is None else reader.frames / reader.rate_hz
            return AudioInfo(seconds, reader.rate_hz, reader.channels)
    except _NeedsFfmpeg:
        return AudioInfo(*ffmpeg.probe(path))


def decode(
    path: str | Path,
    sample_rate_hz: int,
    decoder: str = "soundfile",
    start_s: float | None = None,
    duration_s: float | None = None,
) -> Decoded:
    """Reads a recording or a part of it.

    A part is sought, not decoded up to, where the format allows.

    Args:
        path: the file.
        sample_rate_hz: rate of the answer; other rates are resampled by soxr (HQ).
        decoder: `"soundfile"`, or `"tfio"` for tensorflow-io, which reads OGG and needs the `tfio` extra.
        start_s: where to begin, from 0.
        duration_s: how much to read; `None` for all that follows. What lies beyond the end isn't filled.

    Raises:
        AudioError: if nothing decodes; `status` says why: `missing`, `unreadable`, `empty`, `too short` or
            `corrupt`.
        ConfigError: if `decoder` can't be loaded here.
    """
    path = _check_file(path)
    start = round((start_s or 0.0) * sample_rate_hz)
    count = None if duration_s is None else round(duration_s * sample_rate_hz)
    if start < 0 or (count is not None and count < 1):
        raise ValueError(f"a part must begin at 0 or later and last. Received: {start_s=}, {duration_s=}")
    if decoder == "soundfile":
        try:
            with _Reader(path) as reader:
                return _read_part(reader, sample_rate_hz, start, count)
        except _NeedsFfmpeg:
            native, rate_hz, expected_s = ffmpeg.read(path)
    else:
        native, rate_hz = tfio.read(path)
        expected_s = len(native) / rate_hz
    _check_length(path, len(native), rate_hz)
    samples = _resample(native, rate_hz, sample_rate_hz)
    read_s = len(native) / rate_hz
    reason = _partial_reason(expected_s, read_s, _cut_off(path))
    if start or count is not None:
        samples = samples[start:][:count]
        expected_s = read_s = len(samples) / sample_rate_hz
    return _checked(path, Decoded(samples, sample_rate_hz, expected_s, read_s, reason=reason))


def decode_clip(
    path: str | Path,
    audio: AudioConfig,
    position: float | None = None,
    snap_samples: int = 1,
    context_samples: int = 0,
) -> Decoded:
    """Reads one clip of a recording; shorter recordings are repeated until they fill it.

    Args:
        path: the file.
        audio: rate, clip length and decoder.
        position: `None` for the centre, else 0 to 1, spread evenly over the possible starts.
        snap_samples: starts are multiples of this, for instance a mel hop.
        context_samples: so many samples more before and after the clip, zeros where the recording has none.

    Returns:
        Exactly `audio.clip_samples + 2 * context_samples` samples.

    Raises:
        AudioError: as `decode`.
        ConfigError: as `decode`.
    """
    path = _check_file(path)
    clip_samples, rate_hz = audio.clip_samples, audio.sample_rate_hz
    if audio.decoder == "soundfile":
        try:
            with _Reader(path) as reader:
                n_samples = reader.length_at(rate_hz)
                if n_samples is not None and n_samples >= clip_samples and reader.reaches_end():
                    start = crop_start(n_samples, clip_samples, position, snap_samples)
                    begin, end = max(0, start - context_samples), start + clip_samples + context_samples
                    part = _read_part(reader, rate_hz, begin, min(end, n_samples) - begin)
                    if len(part.samples) == min(end, n_samples) - begin:
                        pads = (begin - start + context_samples, end - min(end, n_samples))
                        return replace(part, samples=np.pad(part.samples, pads)) if any(pads) else part
        except _NeedsFfmpeg:
            pass
    whole = decode(path, rate_hz, audio.decoder)
    start = crop_start(len(whole.samples), clip_samples, position, snap_samples)
    if len(whole.samples) <= clip_samples:
        padded = np.pad(fill(whole.samples, clip_samples), context_samples)
    else:
        padded = np.pad(whole.samples, context_samples)[start : start + clip_samples + 2 * context_samples]
    return replace(whole, samples=padded)


def resampled_length(frames: int, rate_hz: int, target_hz: int) -> int:
    """Samples that `frames` become at another rate."""
    return (2 * frames * target_hz + rate_hz) // (2 * rate_hz)


class _NeedsFfmpeg(Exception):
    """libsndfile doesn't know the format; ffmpeg may."""


class _Reader:
    """One open file that libsndfile reads."""

    def __init__(self, path: Path):
        self.path = path
        # soundfile takes a name that ends in .raw for headerless data, but not a descriptor, which it closes;
        # and a name that isn't UTF-8 as bytes only.
        is_raw = path.suffix.lower() == ".raw"
        try:
            self._file = soundfile.SoundFile(os.open(path, os.O_RDONLY) if is_raw else _raw_name(path))
        except soundfile.LibsndfileError as error:
            if ffmpeg.reads(path):
                raise _NeedsFfmpeg from None
            raise AudioError(path, _open_reason(error)) from None
        self.rate_hz, self.channels = int(self._file.samplerate), int(self._file.channels)
        # Headers without a length (streams) count as libsndfile's largest number.
        self.frames: int | None = int(self._file.frames) if self._file.frames < 1 << 52 else None
        self.cut_off = ""
        self.frames_promised = self.frames
        try:
            if self.rate_hz < MIN_RATE_HZ:
                raise AudioError(
                    path, f"its header says {self.rate_hz} Hz; at least {MIN_RATE_HZ} Hz is needed"
                )
            if self.frames is not None:
                _check_length(path, self.frames, self.rate_hz)
            self._find_truncation()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _find_truncation(self) -> None:
        """Of a truncated WAV or OGG libsndfile counts the frames that are there, without a word."""
        if self._file.format in ("WAV", "WAVEX", "RF64"):
            found = re.search(r"^\s*data : (\d+) \(should be (\d+)\)", self._file.extra_info, re.MULTILINE)
            # Recorders and pipes that never came back to the header leave a number near 2 or 4 GiB.
            if found and self.frames and int(found[2]) < int(found[1]) < 0x7FFF_0000:
                self.frames_promised = self.frames * int(found[1]) // max(1, int(found[2]))
                if self.frames_promised - self.frames > _SHORTFALL_S * self.rate_hz:
                    self.cut_off = _CUT_OFF
        else:
            self.cut_off = _cut_off(self.path)

    def length_at(self, sample_rate_hz: int) -> int | None:
        """Samples at another rate, as the header has it."""
        return None if self.frames is None else resampled_length(self.frames, self.rate_hz, sample_rate_hz)

    def reaches_end(self) -> bool:
        """Whether the last frame that the header promises decodes; otherwise the middle lies elsewhere."""
        if self.frames is None or self._file.format in _TRUE_LENGTH:
            return self.frames is not None
        try:
            self._file.seek(self.frames - 1)
            return len(self._file.read(1)) == 1
        except (soundfile.LibsndfileError, RuntimeError):
            return False

    def read(self, start: int, count: int | None) -> np.ndarray:
        """Mono float32 `[n]`, n <= count: all that decodes from frame `start` on."""
        stop = start + count if count is not None else self.frames
        try:
            self._file.seek(start)
            return self._read_blocks(_BLOCK_FRAMES, None if stop is None else stop - start)
        except (soundfile.LibsndfileError, RuntimeError):
            return self._salvage(start, stop)

    def _salvage(self, start: int, stop: int | None) -> np.ndarray:
        """Reads from the beginning in small steps, so that little is lost where the damage begins."""
        kept: list[np.ndarray] = []
        try:
            with _Reader(self.path) as again:
                again._read_blocks(_SALVAGE_FRAMES, stop, kept)
        except (soundfile.LibsndfileError, RuntimeError):
            pass
        return np.concatenate(kept)[start:] if kept else np.zeros(0, np.float32)

    def _read_blocks(self, block: int, left: int | None, kept: list[np.ndarray] | None = None) -> np.ndarray:
        kept = [] if kept is None else kept
        while left is None or left > 0:
            frames = self._file.read(block if left is None else min(block, left), "float32", always_2d=True)
            if len(frames) == 0:
                break
            kept.append(frames[:, 0] if self.channels == 1 else frames.mean(axis=1, dtype=np.float32))
            left = None if left is None else left - len(frames)
        if len(kept) == 1:
            return kept[0]
        return np.concatenate(kept) if kept else np.zeros(0, np.float32)


def _read_part(reader: _Reader, sample_rate_hz: int, start: int, count: int | None) -> Decoded:
    """Reads `count` samples from `start`, both at the asked rate; a part equals that part of the whole."""
    rate_hz, path = reader.rate_hz, reader.path
    n_samples = reader.length_at(sample_rate_hz)
    is_whole = start == 0 and (count is None or (n_samples is not None and count >= n_samples))
    if is_whole:
        native = reader.read(0, None)
        samples = _resample(native, rate_hz, sample_rate_hz)
        read_s = len(native) / rate_hz
        expected_s = math.nan if reader.frames_promised is None else reader.frames_promised / rate_hz
        if read_s < MIN_SECONDS:
            promised = "" if math.isnan(expected_s) else f" of {expected_s:.1f}"
            raise AudioError(path, f"nothing decodes: read {read_s:.2f}{promised} s", "corrupt")
    else:
        # Both rates share every `period`-th native frame: parts that begin there fall on the whole's samples.
        period = rate_hz // math.gcd(rate_hz, sample_rate_hz)
        margin = 0 if rate_hz == sample_rate_hz else math.ceil(_RESAMPLE_MARGIN_S * rate_hz)
        begin = max(0, start * rate_hz // sample_rate_hz - margin) // period * period
        skip = start - begin * sample_rate_hz // rate_hz
        wanted = None if count is None else math.ceil((skip + count) * rate_hz / sample_rate_hz) + margin
        native = reader.read(min(begin, reader.frames or begin), wanted)
        samples = _resample(native, rate_hz, sample_rate_hz)[skip:][:count]
        read_s = len(samples) / sample_rate_hz
        available = n_samples if n_samples is not None else start + len(samples)
        expected_s = max(0, min(start + count if count is not None else available, available) - start)
        expected_s /= sample_rate_hz
    reason = _partial_reason(expected_s, read_s, reader.cut_off)
    if is_whole and reader.cut_off and reader.frames_promised == reader.frames:
        expected_s = math.nan
    return _checked(path, Decoded(samples, sample_rate_hz, expected_s, read_s, reason=reason))


def _partial_reason(expected_s: float, read_s: float, cut_off: str) -> str:
    if expected_s - read_s > _SHORTFALL_S:
        return f"read {read_s:.1f} of {expected_s:.1f} s"
    return f"read {read_s:.1f} s: {cut_off}" if cut_off else ""


def _resample(native: np.ndarray, rate_hz: int, sample_rate_hz: int) -> np.ndarray:
    if rate_hz == sample_rate_hz or len(native) == 0:
        return native
    resampled: np.ndarray = soxr.resample(native, rate_hz, sample_rate_hz, quality="HQ")
    return resampled


def _checked(path: Path, decoded: Decoded) -> Decoded:
    samples = decoded.samples
    # One NaN or infinity makes the sum one; finite float32 samples overflow only far beyond any audio.
    if len(samples) and not np.isfinite(samples.sum()) and not np.isfinite(samples).all():
        raise AudioError(path, "holds NaN samples", "corrupt")
    if decoded.reason:
        return replace(decoded, status="partial")
    if len(samples) and not samples.any():
        return replace(decoded, status="silent", reason="all samples are zero")
    return decoded


def _raw_name(path: Path) -> Path | bytes:
    return path if os.name == "nt" else os.fsencode(path)


def _check_file(path: str | Path) -> Path:
    path = Path(path)
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


def _check_length(path: Path, frames: int, rate_hz: int) -> None:
    if frames <= 0:
        raise AudioError(path, "holds no samples", "empty")
    if frames / rate_hz < MIN_SECONDS:
        samples = f"{frames} sample{'s' * (frames != 1)}"
        raise AudioError(path, f"holds {samples}; at least {MIN_SECONDS:g} s is needed", "too short")


def _open_reason(error: Exception) -> str:
    text = str(getattr(error, "error_string", error)).rstrip(".")
    if "SF_INFO struct incomplete" in text:
        return "its header is invalid: 0 Hz or no channels"
    if "not recognised" in text:
        return "is not audio"
    # libsndfile says "File does not exist" of an MP3 without a whole frame.
    return "holds no audio that decodes" if "does not exist" in text else f"is damaged ({text})"


def _cut_off(path: Path) -> str:
    """Why a file is partial, if it is an OGG whose last page isn't whole or isn't marked as the last.

    The mark is the third bit of a page's sixth byte (RFC 3533, section 6).
    """
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return ""
        size = file.seek(0, 2)
        file.seek(max(0, size - _OGG_TAIL_BYTES))
        tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0 or page + 27 > len(tail):
        return _CUT_OFF
    segments = tail[page + 26]
    table = tail[page + 27 : page + 27 + segments]
    is_whole = page + 27 + segments + sum(table) <= len(tail)
    return "" if is_whole and tail[page + 5] & 4 else _CUT_OFF
