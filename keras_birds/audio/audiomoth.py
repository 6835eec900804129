"""Reads the sentence that AudioMoth and its kin write into a WAV's comment.

Source: https://github.com/OpenAcousticDevices/AudioMoth-Firmware-Basic, versions 1.0 to 1.11. The package `metamoth`
(1.2.2) refuses every sentence that it doesn't know word by word (frequency triggers, magnetic switches, errors of the
card): not used. Here a part that reads otherwise is passed over, and the others are read.
"""

import re
from datetime import datetime

from keras_birds.audio.recorder import RecorderMetadata
from keras_birds.audio.recorder_text import GAIN_LEVELS, offset_of, text_of

SOURCE = "AudioMoth"

# Firmware 1.0 had no zone in its settings and its clock is UTC.
_BEGAN = re.compile(
    r"Recorded at (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))? (\d\d)/(\d\d)/(\d{4})(?: \(UTC([^)]{0,8})\)| (?=by ))"
)
_SERIAL = re.compile(r"\b(\w*Moth(?: Dev)?) ([0-9A-F]{16})\b")
_GAIN = re.compile(r" at (?:gain setting (\d)|([a-z]+(?:-[a-z]+)?) gain)\b")
_BATTERY = re.compile(r"battery (?:state )?was (?:less than |greater than |[<>] ?)?(\d+(?:\.\d+)?) ?V")
_TEMPERATURE = re.compile(r"temperature was (-?\d+(?:\.\d+)?) ?C")
# Each file that is full ends so; the next goes on.
_STOPPED = re.compile(r"Recording (?:cancelled|stopped)(?![^.]{0,40}file size)[^.]{0,80}\.")


def read(data: bytes) -> RecorderMetadata | None:
    """What the comment tells, wherever it stands in the block `data`; `None` where there is none of these recorders."""
    # Fields are filled up with zeros.
    text = text_of(data.replace(b"\0", b"\n"))
    match = _BEGAN.search(text)
    if match is None:
        return None
    hour, minute, second, _, day, month, year = (int(x or 0) for x in match.groups()[:7])
    zone = offset_of(match[8] or "")
    problems = []
    began = ""
    try:
        microsecond = int((match[4] or "").ljust(6, "0"))
        began = datetime(year, month, day, hour, minute, second, microsecond, zone).isoformat()
    except ValueError:
        problems.append(f"AudioMoth's time can't be read: {match[0][12:]!r}.")
    if zone is None:
        problems.append(f"AudioMoth's zone can't be read: {match[8]!r}.")
    serial, gain = _SERIAL.search(text), _GAIN.search(text)
    level = "" if gain is None else gain[2] or gain[1]
    battery, temperature = _BATTERY.search(text), _TEMPERATURE.search(text)
    if stopped := _STOPPED.search(text):
        problems.append(stopped[0])
    return RecorderMetadata(
        source=SOURCE,
        began=began,
        recorder=" ".join(serial.groups()) if serial else SOURCE,
        gain=GAIN_LEVELS[int(level)] if level in tuple("01234") else level,
        temperature_c=float(temperature[1]) if temperature else None,
        battery_v=float(battery[1]) if battery else None,
        problems=" ".join(problems),
    )
