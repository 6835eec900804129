"""Cuts parts out of recordings, as audio files that people listen to."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import soundfile

from keras_birds.atomic import is_leftover
from keras_birds.audio.reader import MIN_SECONDS, Reader
from keras_birds.audio.remote import file_fingerprint, is_url, path_of
from keras_birds.errors import AudioError, ConfigError, KerasBirdsError
from keras_birds.inference.scorer import RecordingStatus
from keras_birds.results.writers.files import new_file, safe_name
from keras_birds.results.writers.rows import decimal

CLIP_FORMATS = ("flac", "wav")


class Clip(NamedTuple):
    """A part of a recording, and the name of its file below a folder."""

    recording: RecordingStatus
    begin_s: float
    end_s: float
    name: PurePath


def check_new_folder(out: Path) -> None:
    """Raises a `ConfigError` if it is a file, or a folder that holds more than a killed run leaves hidden."""
    if out.exists() and not (out.is_dir() and all(map(is_leftover, out.iterdir()))):
        raise ConfigError(f"--out must be a new or an empty folder. Received: {out}, which holds something")


def clip_stem(score: float, file: str, start_s: float) -> str:
    """What a clip is called: `0.912_dawn_12.5s` of `plot 1/dawn.wav` from 12.5 s on."""
    start = decimal(round(start_s, 3)).removesuffix(".0")
    return f"{score:.3f}_{safe_name(path_of(file).stem)}_{start}s"


def cut_clips(
    clips: Sequence[Clip],
    out: Path,
    fmt: str,
    on_problem: Callable[[str, str, int], None],
    on_done: Callable[[int], None],
) -> Iterator[tuple[int, tuple[float, float]]]:
    """Writes clips with their recordings' rates and channels, one recording after the other.

    Samples stay as they are: 16 bits, or 24 of recordings that have more; floating-point numbers in `wav`. Recordings
    are sought, not decoded up to the place, where the format allows.

    Args:
        clips: what to cut.
        out: the folder.
        fmt: one of `CLIP_FORMATS`.
        on_problem: is told of a recording that is gone, has changed or can't be read: its name, why, and how many
            clips are lost. The others go on.
        on_done: is told how many clips more are done or lost.

    Yields:
        The number of a clip that is written, and where it really begins and ends; seconds.

    Raises:
        ConfigError: if a package that a URL needs isn't installed.
        KerasBirdsError: if a file can't be written.
    """
    by_file: dict[str, list[int]] = defaultdict(list)
    for k, clip in enumerate(clips):
        by_file[clip.recording.file].append(k)
    for file, numbers in sorted(by_file.items()):
        done = 0
        try:
            for k, span_s, data in _cut_recording([(k, clips[k]) for k in numbers], fmt):
                with new_file(out / clips[k].name) as stream:
                    stream.write(data)
                done += 1
                yield k, span_s
                on_done(1)
        except AudioError as error:
            on_problem(file, error.reason, len(numbers) - done)
            on_done(len(numbers) - done)


def _cut_recording(
    wanted: Sequence[tuple[int, Clip]], fmt: str
) -> Iterator[tuple[int, tuple[float, float], bytes]]:
    """Number, begin and end in seconds, and bytes of each clip; an `AudioError` whatever is wrong."""
    recording = wanted[0][1].recording
    file = recording.file
    try:
        # Whether it is there is for the reader.
        if file_fingerprint(file) not in ((-1, -1), recording.fingerprint):
            reason = "has changed since it was scored: run the same `keras-birds detect` or `embed` again"
            raise AudioError(file, reason, "changed")
        with Reader(file) as source:
            places = [
                (round(x.begin_s * source.rate_hz), round(x.end_s * source.rate_hz), k) for k, x in wanted
            ]
            # Of clips that begin together the longest first: the reader keeps what it read last.
            for first, last, k in sorted(places, key=lambda x: (x[0], -x[1], x[2])):
                frames = source.segment(first, last)
                if len(frames) < MIN_SECONDS * source.rate_hz:
                    raise AudioError(file, f"nothing decodes at {first / source.rate_hz:.1f} s", "corrupt")
                span_s = first / source.rate_hz, (first + len(frames)) / source.rate_hz
                yield k, span_s, _encode(file, frames, source, fmt)
    except AudioError as error:
        if error.status != "missing" or is_url(file) or Path(file).is_absolute():
            raise
        reason = f"{error.reason}: relative names count from the folder in which `keras-birds` ran"
        raise AudioError(file, reason, error.status) from None
    except KerasBirdsError:
        raise
    except Exception as error:  # whatever a damaged file sets off in a decoder: the others go on
        raise AudioError(file, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from None


def _encode(file: str, frames: np.ndarray, source: Reader, fmt: str) -> bytes:
    is_deep = source.subtype in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")
    subtype = "PCM_24" if is_deep else "PCM_16"
    if fmt == "wav" and source.subtype in ("FLOAT", "DOUBLE"):
        subtype, samples = "FLOAT", frames
    else:
        # By ourselves: libsndfile reads a 16-bit sample as x / 32768 but writes x * 32767.
        scale = float(1 << (23 if is_deep else 15))
        whole = np.clip(np.rint(frames * np.float64(scale)), -scale, scale - 1)
        samples = whole.astype(np.int32) << 8 if is_deep else whole.astype(np.int16)
    buffer = BytesIO()
    try:
        options = {"subtype": subtype, "format": fmt.upper()}
        with soundfile.SoundFile(buffer, "w", source.rate_hz, frames.shape[1], **options) as clip:
            clip.write(samples)
    except soundfile.LibsndfileError:
        what = f"{frames.shape[1]} channels at {source.rate_hz} Hz"
        raise AudioError(file, f"{what} can't be written as {fmt}: pass --format wav", "unreadable") from None
    return buffer.getvalue()
