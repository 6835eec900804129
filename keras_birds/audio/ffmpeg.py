"""Reads what libsndfile can't, M4A above all, through the `ffmpeg` program where it is installed."""

import io
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from functools import lru_cache
from pathlib import Path
from typing import IO, cast

import numpy as np
import soundfile

from keras_birds.audio.chain import BLOCK_FRAMES, ForwardSound
from keras_birds.audio.remote import file_fingerprint
from keras_birds.errors import AudioError

# Codecs begin and end with some frames that aren't sound, and containers count them or not.
_CODEC_FRAMES = 4096
_DAMAGE = re.compile(
    r"partial file|prematurely|truncat|corrupt|Invalid data found|exhausted|invalid frame", re.IGNORECASE
)


class FfmpegFile(ForwardSound):
    """The first audio stream of a file that ffmpeg decodes; libsndfile has `refusal` against it.

    Attributes:
        seconds: what the header promises; NaN where it doesn't say.
        shortfall_s: a smaller difference from it is no truncation.
        problem: what ffmpeg had against the file, known at its end.

    Raises:
        AudioError: if ffmpeg is not installed or finds no audio.
    """

    def __init__(self, path: Path, refusal: str):
        self._path, self.problem = path, ""
        if not _program():
            is_unknown = refusal == "is not audio"
            reason = "libsndfile doesn't know its format: it" if is_unknown else f"{refusal}, or"
            hint = "needs ffmpeg, which is not installed: install it or convert the file to FLAC"
            raise AudioError(path, f"{reason} {hint}", "unreadable")
        rate_hz, channels, self.seconds = _probe(path, refusal, *file_fingerprint(path))
        self.shortfall_s = max(0.1, _CODEC_FRAMES / rate_hz)
        super().__init__(rate_hz, channels, 1 << 52)

    def _from_start(self) -> Generator[np.ndarray]:
        command = _command(self._path, "-loglevel", "error", "-f", "f32le", "-c:a", "pcm_f32le", "-")
        with (
            tempfile.TemporaryFile() as log,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process,
        ):
            try:
                while data := cast(IO[bytes], process.stdout).read(4 * self.channels * BLOCK_FRAMES):
                    whole = len(data) // (4 * self.channels) * self.channels
                    yield np.frombuffer(data, "<f4", whole).reshape(-1, self.channels)
                process.wait()
                log.seek(0)
                damage = [x for x in log.read().decode("utf-8", "replace").splitlines() if _DAMAGE.search(x)]
                self.problem = f"the file is damaged (ffmpeg: {_short(damage[-1])})" if damage else ""
            finally:
                process.kill()


def _command(path: Path, *options: str) -> list[str]:
    # The file's own rate and channels: ffmpeg's mix to mono weights float channels by 0.71, not by 0.5.
    return [_program(), "-nostdin", "-hide_banner", "-i", f"file:{path}", "-map", "0:a:0", *options]


def _program() -> str:
    return shutil.which("ffmpeg") or ""


def _short(line: str) -> str:
    return " ".join(re.sub(r"\[[^]]* @ 0x[0-9a-f]+\]|file:\S+:", "", line).split())[:150]


@lru_cache(maxsize=4096)
def _probe(path: Path, refusal: str, *fingerprint: int) -> tuple[int, int, float]:  # noqa: ARG001 - of the cache
    """Rate in Hz, channels and seconds."""
    command = _command(path, "-t", "0.1", "-f", "wav", "-c:a", "pcm_f32le", "-")
    done = subprocess.run(command, capture_output=True, check=False)
    log = done.stderr.decode("utf-8", "replace")
    try:
        samples, rate_hz = soundfile.read(io.BytesIO(done.stdout), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError):
        samples = np.zeros((0, 1), np.float32)
    if len(samples) == 0:
        lines = log.strip().splitlines() or ["no output"]
        found = [x for x in lines if _DAMAGE.search(x) or re.search("not found|matches no streams", x)]
        detail = _short((found or lines)[0])
        reason = "is not audio, or too damaged" if refusal == "is not audio" else refusal
        raise AudioError(path, f"{reason} (ffmpeg: {detail})", "corrupt")
    found_s = re.search(r"Duration: (\d+):(\d+):(\d+\.\d+)", log)
    # Of formats without a length ffmpeg guesses it from the bit rate and says so; beside pictures it is theirs as well.
    if not found_s or "Estimating duration" in log or re.search(r"Stream .* Video: (?!.*attached pic)", log):
        return int(rate_hz), samples.shape[1], math.nan
    hours, minutes, seconds = map(float, found_s.groups())
    return int(rate_hz), samples.shape[1], hours * 3600 + minutes * 60 + seconds
