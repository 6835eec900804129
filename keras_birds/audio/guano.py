"""Reads GUANO, the lines of text that bat detectors, Song Meters and their software write into a chunk of a WAV.

Specification: https://github.com/riggsd/guano-spec. The package `guano` (1.0.16) gives up the whole file for a missing
pad byte, a chunk that is cut off, a line without a colon, or a format that Python's `wave` doesn't know: not used.
"""

import re
from collections.abc import Callable
from typing import TypeVar

from keras_birds.audio.recorder import RecorderMetadata
from keras_birds.audio.recorder_text import number_of, place_of, text_of, time_of

SOURCE = "GUANO"

_T = TypeVar("_T")
# In `WA|Song Meter|Audio settings`, of some firmware with typographic quotation marks.
_GAIN = re.compile(r"""["'“”]?gain["'“”]?\s*:\s*["'“”]?([+-]?\d+(?:\.\d+)?)""", re.IGNORECASE)
_GAIN_KEYS = ("gain", "pet|gain", "anabat|gain", "batlogger|gain")
_TEMPERATURES = ("temperature int", "temperature", "anabat|temperature", "temperature ext")
_BATTERIES = ("battery voltage", "oad|battery voltage", "anabat|battery voltage", "batlogger|battery voltage")


def read(data: bytes) -> RecorderMetadata:
    """What a `guan` chunk tells; of a key that stands twice the last counts, and an empty value is none."""
    values: dict[str, str] = {}
    for line in text_of(data).splitlines():
        key, _, value = line.partition(":")
        if value.strip():
            values["|".join(x.strip() for x in key.lower().split("|"))] = value.strip()
    problems: list[str] = []

    def told(keys: tuple[str, ...], parse: Callable[[str], _T | None]) -> _T | None:
        text = next((values[x] for x in keys if x in values), None)
        found = None if text is None else parse(text)
        if text is not None and found is None:
            problems.append(f"GUANO's {keys[0]} can't be read: {text[:40]!r}.")
        return found

    began = told(("timestamp",), time_of)
    latitude, longitude = told(("loc position",), place_of) or (None, None)
    temperature, battery = told(_TEMPERATURES, number_of), told(_BATTERIES, number_of)
    return RecorderMetadata(
        source=SOURCE,
        began=began.isoformat() if began else "",
        latitude=latitude,
        longitude=longitude,
        recorder=_recorder(*(values.get(x, "") for x in ("make", "model", "serial"))),
        gain=_gain(values),
        temperature_c=temperature,
        battery_v=battery,
        problems=" ".join(problems),
    )


def _recorder(make: str, model: str, serial: str) -> str:
    make = "" if model.lower().startswith(make.lower()) else make
    return " ".join(x for x in (make, model, serial) if x)


def _gain(values: dict[str, str]) -> str:
    found = _GAIN.search(values.get("wa|song meter|audio settings", ""))
    if found:
        return f"{float(found[1]):g} dB"
    return next((values[x] for x in _GAIN_KEYS if x in values), "")
