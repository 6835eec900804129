"""Times, numbers and places as recorders write them."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

GAIN_LEVELS = ("low", "low-medium", "medium", "medium-high", "high")
"""Of AudioMoths, by their numbers."""

# Wildlife Acoustics puts a blank in place of `T`, Elekon seven digits behind the point.
_TIME = re.compile(
    r"(\d{4})-(\d\d?)-(\d\d?)[Tt _]+(\d\d?):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?\s*(Z|z|UTC|[+-]\d\d?(?::?\d\d)?)?"
)
_OFFSET = re.compile(r"([+-]?)(\d\d?)(?::?(\d\d))?")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)")
_SEPARATORS = re.compile(r"[\s,;°\[\]()]+")
_DECIMAL_COMMAS = re.compile(r"\s*([+-]?\d+),(\d+)[\s;]+([+-]?\d+),(\d+)\s*")
_DEGREES = r"([+-]?\d+(?:\.\d*)?)"
# Letters before or behind, a gap or a sign between the numbers, and perhaps the elevation.
_PLACE = re.compile(
    rf" ?([NS])? ?{_DEGREES} ?([NS])? ?([EW])? ?(?:(?<![\d.])|(?=[+-])){_DEGREES} ?([EW])?(?: {_DEGREES} ?m?)? ?",
    re.IGNORECASE,
)


def text_of(data: bytes) -> str:
    """Text in UTF-8 or, where it isn't, Latin-1, without zeros: so that of UTF-16 keeps its ASCII letters."""
    data = data.replace(b"\0", b"")
    with suppress(UnicodeDecodeError):
        return data.decode("utf-8-sig")
    return data.decode("latin-1")


def offset_of(text: str) -> timezone | None:
    """The zone of `+02:00`, `+0530`, `-5` or `Z`; `None` for what no zone has (beyond 14 hours)."""
    if text.upper() in ("Z", "UTC", ""):
        return UTC
    match = _OFFSET.fullmatch(text)
    if match is None:
        return None
    minutes = int(match[2]) * 60 + int(match[3] or 0)
    if minutes > 14 * 60 or int(match[3] or 0) > 59:
        return None
    return timezone(timedelta(minutes=-minutes if match[1] == "-" else minutes))


def time_of(text: str) -> datetime | None:
    """A time in ISO 8601 and what comes near it, with a zone only if it tells one; `None` where it is no time."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    year, month, day, hour, minute = map(int, match.groups()[:5])
    microseconds = int((match[7] or "").ljust(6, "0")[:6])
    zone = offset_of(match[8]) if match[8] else None
    if match[8] and zone is None:
        return None
    with suppress(ValueError):
        return datetime(year, month, day, hour, minute, int(match[6] or 0), microseconds, zone)
    return None


def number_of(text: str) -> float | None:
    """The number that a text such as `12.3C` or `-3,4` begins with; `None` where it begins with none."""
    match = _NUMBER.match(text.strip())
    return float(match[0].replace(",", ".")) if match else None


def place_of(text: str) -> tuple[float, float] | None:
    """Latitude and longitude of `48.1 -11.5`, `48.1,N,11.5,W`, `N48.1 W11.5`, `48,1 -11,5`, with an elevation.

    `None` where it is no such text.
    """
    if commas := _DECIMAL_COMMAS.fullmatch(text):
        text = "{}.{} {}.{}".format(*commas.groups())
    match = _PLACE.fullmatch(_SEPARATORS.sub(" ", text))
    if match is None:
        return None
    north, latitude, north_behind, east, longitude, east_behind, _ = match.groups()
    is_south, is_west = (
        (north or north_behind or "").upper() == "S",
        (east or east_behind or "").upper() == "W",
    )
    return (
        -abs(float(latitude)) if is_south else float(latitude),
        -abs(float(longitude)) if is_west else float(longitude),
    )
