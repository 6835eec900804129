"""Which parts of recordings are heard at all: at night, at dawn, from 22:00 to 04:00, one minute in ten."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np

from keras_birds.audio.recorder import Origin
from keras_birds.audio.sun import sun_position
from keras_birds.errors import ConfigError

SUNSET_DEG, CIVIL_DEG = -0.833, -6.0
"""Elevations of the sun's centre: its upper edge is seen on the horizon; the end of civil twilight."""

_DAWN_DEG = (-12.0, 6.0)
_CLOCK = re.compile(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)")
_DAY_MIN = 24 * 60

_BY_SUN: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "dusk-dawn": lambda height, _: height < CIVIL_DEG,
    "night": lambda height, _: height < SUNSET_DEG,
    "day": lambda height, _: height >= SUNSET_DEG,
    "dawn": lambda height, rises: rises & (_DAWN_DEG[0] <= height) & (height < _DAWN_DEG[1]),
    "dusk": lambda height, rises: ~rises & (_DAWN_DEG[0] <= height) & (height < _DAWN_DEG[1]),
}
SUN_WORDS = tuple(_BY_SUN)


@dataclass(frozen=True)
class Schedule:
    """When recordings are heard; a moment counts that both fields want.

    Args:
        when: by the sun at the recording's place: `dusk-dawn` (6 degrees below the horizon and lower: from the end of
            civil twilight to its beginning), `night` (sunset to sunrise), `day` (sunrise to sunset), `dawn` (rising
            from 12 degrees below to 6 above the horizon) or `dusk` (falling from there); by the local clock,
            `22:00-04:00`; empty for always.
        sample: `1/10` is the first minute of every ten since midnight by the local clock, so that recorders agree; of
            a recording whose time isn't known, the first of every ten of its own. Empty for all.

    Raises:
        ConfigError: if either can't be understood.
    """

    when: str = ""
    sample: str = ""

    def __post_init__(self) -> None:
        _ = self._clock_min, self._sample_min

    @cached_property
    def _clock_min(self) -> tuple[int, int] | None:
        if not self.when or self.when in _BY_SUN:
            return None
        match = _CLOCK.fullmatch(self.when)
        hours = [int(x) for x in match.groups()] if match else []
        begin, end = (60 * hours[0] + hours[1], 60 * hours[2] + hours[3]) if hours else (0, 0)
        if (end - begin) % _DAY_MIN == 0 or max(begin, end) > _DAY_MIN or max(hours[1::2]) > 59:
            raise ConfigError(
                f"--when must be {', '.join(SUN_WORDS)}, or two times of day such as 22:00-04:00. Received: {self.when}"
            )
        return begin, end

    @cached_property
    def _sample_min(self) -> tuple[int, int] | None:
        if not self.sample:
            return None
        match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", self.sample)
        count, cycle = map(int, match.groups()) if match else (0, 0)
        if not 1 <= count < cycle <= _DAY_MIN:
            raise ConfigError(
                f"--sample must be minutes of how many, such as 1/10, of 1440 at most. Received: {self.sample}"
            )
        return count, cycle

    @property
    def settings(self) -> dict[str, Any]:
        """All that it depends on, as plain data."""
        return {"when": self.when, "sample": self.sample}

    def lacks(self, origin: Origin) -> str:
        """What of where and when a recording was made must be known and isn't; empty where nothing is lacking."""
        if not self.when:
            return ""
        if origin.local is None:
            return "nothing tells when it was recorded"
        if self.when not in _BY_SUN:
            return ""
        if origin.latitude is None or origin.longitude is None:
            return "nothing tells where it was recorded: pass --sites, --deployments or --lat and --lon"
        if origin.utc_offset_min is None:
            return "nothing tells its clock's timezone: pass --timezone"
        return ""

    def wants(self, origin: Origin, at_s: np.ndarray) -> np.ndarray:
        """Which moments of a recording are heard, bool `[n]`.

        Args:
            origin: where and when it was made; it must not lack anything.
            at_s: seconds from its beginning, float64 `[n]`.
        """
        wanted = np.ones(len(at_s), bool)
        began = origin.local or datetime(1, 1, 1)
        midnight = began.replace(hour=0, minute=0, second=0, microsecond=0)
        minutes = ((began - midnight).total_seconds() + at_s) / 60 % _DAY_MIN
        if self._sample_min:
            count, cycle = self._sample_min
            wanted &= minutes % cycle < count
        if self._clock_min:
            begin, end = self._clock_min
            wanted &= (minutes - begin) % _DAY_MIN < (end - begin) % _DAY_MIN
        elif self.when:
            wanted &= _BY_SUN[self.when](*_sun(origin, at_s))
        return wanted

    def outside(self, origin: Origin) -> str:
        """Why nothing of a recording is heard, which `wants` says."""
        asked = " ".join(f"--{name} {x}" for name, x in self.settings.items() if x)
        if self.when in _BY_SUN:
            # Noon and midnight of the sun lie within half a day on either side.
            wanted = _BY_SUN[self.when](*_sun(origin, np.arange(-43_200.0, 43_201.0, 600.0)))
            if not wanted.any():
                return f"outside {asked}, which that day has not at its latitude"
        return f"outside {asked}"


def _sun(origin: Origin, at_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    local, offset_min = origin.local, origin.utc_offset_min
    if local is None or offset_min is None or origin.latitude is None or origin.longitude is None:
        raise ValueError(f"time and place must be known. Received: {origin}")
    began = np.datetime64(local - timedelta(minutes=offset_min), "ms")
    utc = began + np.round(at_s * 1000).astype("timedelta64[ms]")
    return sun_position(utc, origin.latitude, origin.longitude)
