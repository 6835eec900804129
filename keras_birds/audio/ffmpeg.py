"""Reads what libsndfile can't, M4A above all, through the `ffmpeg` program where it is installed."""

import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

from keras_birds.errors import AudioError

_SUFFIXES = {".3gp", ".aac", ".ac3", ".amr", ".ape", ".asf", ".m4a", ".m4b", ".mka", ".mkv", ".mov", ".mp4"}
_SUFFIXES |= {".tta", ".webm", ".wma", ".wv"}
# ID3 tags may stand before MP3 and AAC alike: those go by their suffix.
_MAGIC = (
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF, WMA
    b"\xff\xf1",  # AAC in ADTS
    b"\xff\xf9",
    b"#!AMR",
    b"MAC ",  # Monkey's Audio
    b"wvpk",
)

_BLOCK_BYTES = 1 << 20


def knows(head: bytes, suffix: str) -> bool:
    """Whether a file that libsndfile refused looks like ffmpeg's: by its first 16 bytes, then by its suffix."""
    return head.startswith(_MAGIC) or head[4:8] == b"ftyp" or suffix.lower() in _SUFFIXES


def probe(path: Path) -> tuple[float, int, int]:
    """Seconds (NaN where unknown), sample rate in Hz and channels of the first audio stream.

    Raises:
        AudioError: if ffmpeg is not installed or finds no audio.
    """
    samples, rate_hz, expected_s = _run(path, ("-t", "0.1"))
    return expected_s, rate_hz, samples.shape[1]


@contextmanager
def stream(path: Path) -> Iterator[tuple[Iterator[np.ndarray], int, int, float]]:
    """Decodes the first audio stream in blocks, so that memory stays flat.

    Yields:
        Blocks of float32 `[n, channels]`, the rate in Hz, the channels, and the seconds that the header promises
        (NaN where it doesn't say).

    Raises:
        AudioError: as `probe`.
    """
    expected_s, rate_hz, channels = probe(path)
    command = [*_command(path), "-loglevel", "error", "-f", "f32le", "-c:a", "pcm_f32le", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield _blocks(process, channels), rate_hz, channels, expected_s
        finally:
            process.kill()


def _blocks(process: subprocess.Popen, channels: int) -> Iterator[np.ndarray]:
    frame_bytes = 4 * channels
    while data := process.stdout.read(_BLOCK_BYTES // frame_bytes * frame_bytes) if process.stdout else b"":
        whole = len(data) // frame_bytes * frame_bytes
        yield np.frombuffer(data[:whole], "<f4").reshape(-1, channels)


def _command(path: Path, options: tuple[str, ...] = ()) -> list[str]:
    program = shutil.which("ffmpeg")
    if program is None:
        raise AudioError(
            path, "needs ffmpeg, which is not installed: install it or convert the file to FLAC", "unreadable"
        )
    # The file's own rate and channels: ffmpeg's mix to mono weights float channels by 0.71, not by 0.5.
    return [program, "-nostdin", "-hide_banner", "-i", f"file:{path}", "-map", "0:a:0", *options]


def _run(path: Path, options: tuple[str, ...] = ()) -> tuple[np.ndarray, int, float]:
    command = [*_command(path, options), "-f", "wav", "-c:a", "pcm_f32le", "-"]
    done = subprocess.run(command, capture_output=True, check=False)
    log = done.stderr.decode("utf-8", "replace")
    try:
        samples, rate_hz = soundfile.read(io.BytesIO(done.stdout), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError):
        samples = np.zeros((0, 1), np.float32)
    if len(samples) == 0:
        last = (log.strip().splitlines() or ["no output"])[-1].removeprefix(f"file:{path}: ")
        raise AudioError(path, f"ffmpeg reads no audio from it ({last})", "corrupt")
    found = re.search(r"Duration: (\d+):(\d+):(\d+\.\d+)", log)
    # Of formats without a length ffmpeg guesses it from the bit rate and says so.
    is_known = found and "Estimating duration" not in log
    hours, minutes, seconds = found.groups() if found and is_known else (0, 0, "nan")
    return samples, int(rate_hz), int(hours) * 3600 + int(minutes) * 60 + float(seconds)
