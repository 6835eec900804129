"""Reads WAMD, which Wildlife Acoustics' recorders and Kaleidoscope write into a chunk of a WAV.

After Wildlife Acoustics' public `wa_meta.h`: sub-chunks of a number (16 bits), a length (32 bits) and a value, mostly
text. Those that aren't known here (programs, diagnostics, voice notes, later firmware's) are passed over.
"""

import struct

from keras_birds.audio.recorder import RecorderMetadata
from keras_birds.audio.recorder_text import number_of, place_of, text_of, time_of

SOURCE = "WAMD"

_VERSION, _MODEL, _SERIAL, _BEGAN, _PLACE = 0x00, 0x01, 0x02, 0x05, 0x06
_LAST_PLACE, _TEMPERATURE, _TEMPERATURE_OUTSIDE = 0x14, 0x15, 0x16
_USED = {_VERSION, _MODEL, _SERIAL, _BEGAN, _PLACE, _LAST_PLACE, _TEMPERATURE, _TEMPERATURE_OUTSIDE}


def read(data: bytes) -> RecorderMetadata:
    """What a `wamd` chunk tells, as far as it goes where it's cut off."""
    values, place = {}, 0
    while place + 6 <= len(data):
        kind, length = struct.unpack_from("<HI", data, place)
        value = data[place + 6 : place + 6 + length]
        place += 6 + length
        if kind in _USED and value and place <= len(data):
            values[kind] = value
    version = int.from_bytes(values.pop(_VERSION, b"\1"), "little")
    if version != 1:
        return RecorderMetadata(source=SOURCE, problems=f"WAMD of version {version} isn't known, only 1.")
    problems = []
    texts = {kind: text for kind, value in values.items() if (text := text_of(value).strip())}
    began = time_of(texts.get(_BEGAN, ""))
    if _BEGAN in texts and began is None:
        problems.append(f"WAMD's time can't be read: {texts[_BEGAN][:40]!r}.")
    where = texts.get(_PLACE) or texts.get(_LAST_PLACE, "")
    # The first is the geodetic datum.
    latitude, longitude = place_of(where.partition(",")[2]) or (None, None)
    if where and latitude is None:
        problems.append(f"WAMD's place can't be read: {where[:40]!r}.")
    model = texts.get(_MODEL, "")
    return RecorderMetadata(
        source=SOURCE,
        began=began.isoformat() if began else "",
        latitude=latitude,
        longitude=longitude,
        recorder=" ".join(
            x for x in ("Wildlife Acoustics" if model else "", model, texts.get(_SERIAL, "")) if x
        ),
        temperature_c=number_of(texts.get(_TEMPERATURE) or texts.get(_TEMPERATURE_OUTSIDE, "")),
        problems=" ".join(problems),
    )
