"""What a recorder wrote beside the sound: when, where, with which machine; and what is made of it."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class RecorderMetadata:
    """What a file itself tells of its recording; empty or `None` where it tells nothing.

    Args:
        source: what tells it: `GUANO`, `WAMD`, `AudioMoth` or `Frontier Labs`; of several, the one that counts first.
        began: when the recording began, by the recorder's clock, ISO 8601: `2023-05-10T07:30:00`, with an offset
            (`+02:00`) only if the file tells it.
        latitude: degrees north.
        longitude: degrees east.
        recorder: maker, model and serial number.
        gain: as it is written: `12 dB`, `medium`.
        temperature_c: in the recorder, in degrees Celsius.
        battery_v: in volts.
        problems: what can't be so or contradicts itself, one sentence after the other; what is meant there is empty.
            Also why the recorder stopped early.
    """

    source: str = ""
    began: str = ""
    latitude: float | None = None
    longitude: float | None = None
    recorder: str = ""
    gain: str = ""
    temperature_c: float | None = None
    battery_v: float | None = None
    problems: str = ""

    @property
    def clock(self) -> datetime | None:
        """`began` as a time, with a zone only if the file tells one."""
        return datetime.fromisoformat(self.began) if self.began else None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where and when a recording was made, by all that tells it: the file itself, a table of sites, its name.

    Args:
        began: when it began, in the local time of its place, ISO 8601 without an offset; empty where nothing tells it.
        utc_offset_min: local time less UTC, in minutes; `None` where nothing tells it.
        latitude: degrees north; `None` where nothing tells it.
        longitude: degrees east.
        site: by its name in a table; empty without one.
        deployment: by its name in a table of deployments.
        notes: contradictions, and what can't be so, one sentence after the other.
    """

    began: str = ""
    utc_offset_min: int | None = None
    latitude: float | None = None
    longitude: float | None = None
    site: str = ""
    deployment: str = ""
    notes: str = ""

    @property
    def local(self) -> datetime | None:
        """`began` as a time without zone."""
        return datetime.fromisoformat(self.began) if self.began else None


UNTOLD, UNKNOWN = RecorderMetadata(), Origin()
