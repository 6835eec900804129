"""Hits as they are shown and heard: a small spectrogram and a sound, which the page holds itself."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from matplotlib import colormaps
from PIL import Image

from keras_birds.audio.decode import read_part
from keras_birds.audio.mel import MelTransform
from keras_birds.audio.remote import path_of
from keras_birds.config import AudioConfig
from keras_birds.errors import AudioError, KerasBirdsError
from keras_birds.parallel import map_in_order
from keras_birds.plots.figure import IMAGE_STYLE, loudest_db
from keras_birds.plots.hits import display_mel
from keras_birds.text import printable

_READERS = 4
_PALETTE = colormaps[IMAGE_STYLE["cmap"]](np.arange(256), bytes=True)[:, :3].tobytes()


@dataclass(frozen=True)
class Card:
    """A hit as it is shown and heard: what is out of reach has a problem in place of picture and sound."""

    row: int
    name: str
    place: str
    picture: str = ""
    sound: str = ""
    problem: str = ""


def cards_of(windows: pd.DataFrame, audio: AudioConfig) -> list[Card]:
    """Reads windows of a store, which are described as by `EmbeddingStore.windows`."""
    rows = windows.to_dict("records")
    found = map_in_order(lambda x: _card(x, audio), [iter(rows)], min(_READERS, len(rows)))
    return [card for _, card in found]


def _card(row: Mapping[Any, Any], audio: AudioConfig) -> Card:
    file, start_s, end_s = str(row["file"]), float(row["start_s"]), float(row["end_s"])
    name = path_of(file).name
    minutes, seconds = divmod(start_s, 60)
    place = int(row["row"]), f"{printable(name)} {minutes:.0f}:{seconds:04.1f}"
    where = f"{printable(file)}, {start_s:g} to {end_s:g} s" + (
        f", channel {row['channel']}" if row["channel"] else ""
    )
    try:
        samples = read_part(file, start_s, end_s, audio)
        picture = picture_url(samples, audio)
    except (KerasBirdsError, OSError) as error:
        reason = error.reason if isinstance(error, AudioError) else str(error)
        return Card(*place, where, problem=printable(f"out of reach: {reason}"))
    return Card(*place, where, picture, _sound_url(samples, audio.sample_rate_hz))


def picture_url(samples: np.ndarray, audio: AudioConfig) -> str:
    """The mel spectrogram of `[n]` samples as a `data:` URL; an `AudioError` if they are too few."""
    mel = display_mel(audio)
    if len(samples) < mel.n_fft:
        raise AudioError("", "nothing decodes there")
    db = loudest_db(samples, MelTransform(audio, mel))
    shade = np.clip(1 + (db - db.max()) / mel.top_db, 0, 1)[::-1]
    image = Image.fromarray(np.rint(255 * shade).astype(np.uint8))
    image.putpalette(_PALETTE)
    stream = BytesIO()
    image.save(stream, "PNG")
    return _url("image/png", stream)


def _sound_url(samples: np.ndarray, rate_hz: int) -> str:
    stream = BytesIO()
    soundfile.write(stream, np.clip(samples, -1, 1), rate_hz, format="FLAC", subtype="PCM_16")
    return _url("audio/flac", stream)


def _url(kind: str, stream: BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
