"""Decodes every recording once and tells what each holds."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from keras_birds.audio.metadata import read_recorder_metadata
from keras_birds.audio.recorder import RecorderMetadata
from keras_birds.audio.stream import open_stream
from keras_birds.config import AudioConfig
from keras_birds.errors import AudioError
from keras_birds.parallel import map_in_order

Row = tuple[str, float, int, int, str, str, RecorderMetadata]
COLUMNS = ("path", "seconds", "sample_rate_hz", "channels", "status", "reason", "recorder")


def check_recordings(
    paths: Sequence[str | Path],
    audio: AudioConfig,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> pd.DataFrame:
    """Decodes recordings in threads, each from its first to its last sample.

    Args:
        paths: audio files.
        audio: how they are read.
        workers: threads; memory is flat, however long recordings are.
        progress: called with the recordings done and to do, from the calling thread.

    Returns:
        A row for each path, in order: `path` (str), `seconds` (float: what decodes, 0 where nothing does),
        `sample_rate_hz` and `channels` (int: as recorded, 0 where the header can't be read), `status` (`ok`,
        `partial`, `silent`, or why it isn't usable: `corrupt`, `empty`, `too short`, `unreadable`, `missing`),
        `reason` (empty where it is ok) and `recorder` (`RecorderMetadata`: what the file itself tells).

    Raises:
        ConfigError: if the decoder can't be loaded.
    """
    rows: list[Row] = []
    check = partial(_check, audio=audio)
    for _, row in map_in_order(check, [map(str, paths)], workers):
        rows.append(row)
        progress(len(rows), len(paths))
    kinds = {"seconds": float, "sample_rate_hz": int, "channels": int}
    # As objects: pandas' own strings can't hold the bytes of a file name that isn't UTF-8.
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object).astype(kinds)


def _check(path: str, audio: AudioConfig) -> Row:
    rate_hz = channels = 0
    recorder = read_recorder_metadata(path)
    try:
        with open_stream(path, audio) as stream:
            rate_hz, channels = stream.sample_rate_hz, stream.channels
            for _ in stream.blocks:
                pass
    except AudioError as error:
        return path, 0.0, rate_hz, channels, error.status, error.reason, recorder
    return path, stream.seconds_read, rate_hz, channels, stream.status, stream.reason, recorder
