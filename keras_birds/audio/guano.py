"""Reads GUANO, the lines of text that bat detectors, Song Meters and AudioMoths write into a chunk of a WAV.

Specification: https://github.com/riggsd/guano-spec. The package `guano` (1.0.16) loses what stands behind a missing pad
byte and gives up the whole file for a chunk that is cut off, a line without a colon, RF64 or floats: not used.
"""

import re
from collections.abc import Callable
from typing import TypeVar

from keras_birds.audio.recorder import RecorderMetadata
from keras_birds.audio.recorder_text import GAIN_LEVELS, number_of, place_of, text_of, time_of

SOURCE = "GUANO"

_T = TypeVar("_T")
# In `WA|Song Meter|Audio settings`, of some firmware with typographic quotation marks, or without any.
_DECIBELS = re.compile(r"\bgain\W{0,3}?:\W{0,3}?([+-]?\d+(?:\.\d+)?)", re.IGNORECASE)
# In `OAD|Recording Settings`.
_LEVEL = re.compile(r"\bGAIN ([0-4])\b")


def read(data: bytes) -> RecorderMetadata:
    """What a `guan` chunk tells; of a key that stands twice the last counts, and an empty value is none."""
    values: dict[str, str] = {}
    for line in text_of(data).splitlines():
        key, _, value = line.partition(":")
        if value.strip():
            values["|".join(x.strip() for x in key.lower().split("|"))] = value.strip()
    problems: list[str] = []

    def told(key: str, parse: Callable[[str], _T | None]) -> _T | None:
        # Makers put their name before.
        text = values.get(key) or next((x for name, x in values.items() if name.endswith(f"|{key}")), None)
        found = parse(text) if text else None
        if text and found is None:
            problems.append(f"GUANO's {key} can't be read: {text[:40]!r}.")
        return found

    if (slower := told("te", number_of)) and slower != 1:
        problems.append(
            f"The file is {slower:g} times slower than the sound was (GUANO's TE), and so are all times told of it."
        )
    began = told("timestamp", time_of)
    latitude, longitude = told("loc position", place_of) or (None, None)
    temperatures = [told(x, number_of) for x in ("temperature int", "temperature", "temperature ext")]
    voltages = [told(x, number_of) for x in ("battery voltage", "battvoltage")]
    return RecorderMetadata(
        source=SOURCE,
        began=began.isoformat() if began else "",
        latitude=latitude,
        longitude=longitude,
        recorder=_recorder(*(values.get(x, "") for x in ("make", "model", "serial"))),
        gain=told("gain", str) or _gain(values),
        temperature_c=next((x for x in temperatures if x is not None), None),
        battery_v=next((x for x in voltages if x is not None), None),
        problems=" ".join(problems),
    )


def _recorder(make: str, model: str, serial: str) -> str:
    return " ".join(x for x in ("" if model.startswith(make) else make, model, serial) if x)


def _gain(values: dict[str, str]) -> str:
    if found := _DECIBELS.search(values.get("wa|song meter|audio settings", "")):
        return f"{float(found[1]):g} dB"
    found = _LEVEL.search(values.get("oad|recording settings", ""))
    return GAIN_LEVELS[int(found[1])] if found else ""
