"""Reads the comments of FLAC and Ogg: Frontier Labs' own, and what converters keep of GUANO and of AudioMoth's."""

import re

from keras_birds.audio import audiomoth, guano
from keras_birds.audio.recorder import RecorderMetadata
from keras_birds.audio.recorder_text import number_of, place_of, text_of, time_of

SOURCE = "Frontier Labs"

# Frontier Labs' recorders tell the charge too: `95% 12.81V`.
_VOLTS = re.compile(r"(\d{1,3}(?:\.\d{1,3})?) ?V\b", re.IGNORECASE)


def read(data: bytes) -> list[RecorderMetadata]:
    """What a block of Vorbis comments tells, of each source that it holds.

    ffmpeg keeps AudioMoth's comment as `comment`; GUANO stands in a comment of any name, its lines also separated by
    semicolons.
    """
    comments = _comments(data)
    found = [_frontier_labs({key.lower(): value for key, value in comments})]
    found.append(audiomoth.read("\n".join(value for _, value in comments).encode()))
    for _, value in comments:
        if value.lstrip().lower().startswith("guano|"):
            lines = value if "\n" in value.strip() else value.replace(";", "\n")
            found.append(guano.read(lines.encode()))
    return [x for x in found if x is not None]


def _comments(data: bytes) -> list[tuple[str, str]]:
    """Names and values, as far as they go."""
    place = 4 + int.from_bytes(data[:4], "little")
    count = int.from_bytes(data[place : place + 4], "little")
    comments: list[tuple[str, str]] = []
    place += 4
    while len(comments) < count and place + 4 <= len(data):
        length = int.from_bytes(data[place : place + 4], "little")
        key, _, value = text_of(data[place + 4 : place + 4 + length]).partition("=")
        comments.append((key.strip(), value.strip()))
        place += 4 + length
    return comments


def _frontier_labs(comments: dict[str, str]) -> RecorderMetadata | None:
    if "recordingstart" not in comments or "sensoruid" not in comments:
        return None
    problems = []
    began = time_of(comments["recordingstart"])
    if began is None:
        problems.append(f"Frontier Labs' time can't be read: {comments['recordingstart'][:40]!r}.")
    where = comments.get("sensorlocation", "")
    latitude, longitude = place_of(where) or (None, None)
    battery = _VOLTS.search(comments.get("batterylevel", ""))
    gain = number_of(comments.get("channelgain", ""))
    return RecorderMetadata(
        source=SOURCE,
        began=began.isoformat() if began else "",
        latitude=latitude,
        longitude=longitude,
        recorder=f"{SOURCE} {comments['sensoruid']}".strip(),
        gain=f"{gain:g} dB" if gain else "",
        battery_v=float(battery[1]) if battery else None,
        problems=" ".join(problems),
    )
