"""When a recording began and where, as its file's name tells."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

from keras_birds.audio.remote import path_of
from keras_birds.errors import ConfigError

_YEAR = r"(?<!\d)((?:19[7-9]|20\d)\d)"
_STAMPS = (
    # Date and time, each with or without separators, not within longer numbers.
    re.compile(
        # A blank in place of a zero in the day is Frontier Labs' firmware 3.08.
        _YEAR + r"(?P<date>[-_.]?)(\d\d)(?P=date)(\d\d| [1-9](?=T))(?:[T_ $.-]?|-birdnet-(?:RTSP_\d+-)?)"
        r"(\d\d)(?P<time>[-_.:]?)(\d\d)(?P=time)(\d\d)(?!\d)",
        re.IGNORECASE,
    ),
    # Only so may seconds lack: the end of `20230510_0012` is as likely a counter.
    re.compile(_YEAR + r"-(\d\d)-(\d\d)[T_ ](\d\d)[-.:](\d\d)(?![-.:]?\d)", re.IGNORECASE),
)
# Capitals, and the years of that firmware (October 2016 to February 2023): other such names are mostly no times.
_AUDIOMOTH_HEX = re.compile(r"(?:5[89A-F]|6[0-3])[0-9A-F]{6}")

# Behind a time. Only what is an offset somewhere: the end of `20230510_073000-0002` is a counter.
_ZONE = re.compile(r"(?:\.\d+)?(?:(Z)(?![A-Za-z0-9])|([+-])(\d\d):?(\d\d)(?!\d))")
_PLACE = re.compile(r"(?<![\d.])([+-]\d{1,2}\.\d{3,6})([+-]\d{1,3}\.\d{3,6})(?![\d.])")
_EASTERN = [*range(0, 15 * 60, 60), 210, 270, 330, 345, 390, 525, 570, 630, 765, 825]
_WESTERN = [*range(60, 13 * 60, 60), 150, 210, 270, 570]

_DIRECTIVES = {
    **dict.fromkeys("ymdHIMS", r"\d{2}"),
    "Y": r"\d{4}",
    "j": r"\d{3}",
    "f": r"\d{1,6}",
    "p": r"[AaPp][Mm]",
    "b": r"[^\W\d_]{3}",
    "B": r"[^\W\d_]{3,}",
    "z": r"(?:Z|[+-]\d{2}:?\d{2})",
    "%": "%",
}


def start_clock(name: str, pattern: str | None = None) -> datetime | None:
    """When a recording began, on the clock that named the file, with a zone only if the name tells it.

    Without a pattern these are known:

    - `YYYYMMDD_HHMMSS` anywhere in the name, beside `_` also with `T`, `-`, `$` or nothing between: AudioMoth
      (`20230510_073000T.WAV`), Song Meter (`SM304472_0+1_20181219$100000.wav`: `$` is a clock set by GPS),
      Frontier Labs (`S20240815T055537.4793+1000_E...`), Swift; of several the first;
    - the same with separators: `2023-05-10T07-30-00`, `2023-05-10_07-30` (Arbimon), `2023-05-10-birdnet-07:30:00`
      (BirdNET-Pi);
    - AudioMoth's first firmware: `5AFEA4E0.WAV`, seconds since 1970 in hexadecimal, UTC.

    A zone stands behind the time: `+1000`, `-0330`, `Z`. Years of two digits need a pattern. Sources: Song Meter SM3BAT
    and Mini 2 user guides, section on file names; seewave's `audiomoth` and `songmeter`; Frontier Labs' known problems
    (https://github.com/ecoacoustics/known-problems).

    Args:
        name: a path or a URL, of which the last part counts.
        pattern: a `check_time_pattern`, tried in place of all of the above anywhere in the name without its suffix.

    Returns:
        Date and time; `None` where the name tells none, or one that doesn't exist.

    Raises:
        ConfigError: if `pattern` can't give a date and a time.
    """
    path = path_of(name)
    if pattern is not None:
        for match in check_time_pattern(pattern).finditer(path.stem):
            with suppress(ValueError):
                return datetime.strptime(match[0], pattern)
        return None
    for match in (x for stamp in _STAMPS for x in stamp.finditer(path.stem)):
        numbers = [int(x) for x in match.groups() if x.strip().isdigit()]
        year, month, day, hour, minute, second = (*numbers, 0)[:6]
        with suppress(ValueError):
            return datetime(year, month, day, hour, minute, second, tzinfo=_zone(path.stem, match.end()))
    # Without a letter it may be any number, but AudioMoth's suffix is in capitals.
    if _AUDIOMOTH_HEX.fullmatch(path.stem) and (not path.stem.isdigit() or path.suffix == ".WAV"):
        return datetime.fromtimestamp(int(path.stem, 16), UTC)
    return None


def named_place(name: str) -> tuple[float, float] | None:
    """Latitude and longitude in a name as Frontier Labs' recorders write them, `[-21.1440+149.6960]`; else `None`."""
    match = _PLACE.search(path_of(name).stem)
    return match and (float(match[1]), float(match[2]))


def _zone(text: str, place: int) -> timezone | None:
    match = _ZONE.match(text, place)
    if match is None or match[1]:
        return match and UTC
    minutes = int(match[3]) * 60 + int(match[4])
    is_east = match[2] == "+"
    if minutes not in (_EASTERN if is_east else _WESTERN):
        return None
    return timezone(timedelta(minutes=minutes if is_east else -minutes))


@lru_cache
def check_time_pattern(pattern: str) -> re.Pattern[str]:
    """Checks a pattern of `strptime` directives and other text, for instance `REC_%Y%m%d_%H%M%S`; what finds it.

    Numbers have all their digits: `%d` is 01 to 31. Allowed are `%Y %y %m %b %B %d %j %H %I %p %M %S %f %z %%`.

    Raises:
        ConfigError: unless it gives a year, a day of it, and the hour at least.
    """
    pieces = re.findall(r"%(.?)|([^%]+)", pattern, re.DOTALL)
    directives = [x for x, text in pieces if not text]
    used = set(directives)
    unknown = [f"%{x}" for x in directives if x not in _DIRECTIVES]
    twice = sorted(f"%{x}" for x in used - {"%"} if directives.count(x) > 1)
    if unknown or twice:
        problem = f"unknown {', '.join(unknown)}" if unknown else f"{', '.join(twice)} twice"
        known = " ".join(f"%{x}" for x in _DIRECTIVES)
        raise ConfigError(f"a time pattern must hold any of {known} once. Received: {pattern!r} ({problem})")
    has_date = used & {"Y", "y"} and ("j" in used or (used & {"m", "b", "B"} and "d" in used))
    if not has_date or not ("H" in used or {"I", "p"} <= used):
        raise ConfigError(
            f"a time pattern must give a date and an hour. Received: {pattern!r}. For instance REC_%Y%m%d_%H%M%S"
        )
    body = "".join(re.escape(text) if text else _DIRECTIVES[x] for x, text in pieces)
    # Neither end lies within a longer number.
    edge = r"(?:(?<!\d)|(?!\d))"
    return re.compile(edge + body + edge)
