"""Checklists in eBird's Record Format (Extended): a row for each species of a checklist, 19 columns, no header.

https://support.ebird.org/en/support/solutions/articles/48000907878: files of 1 MB at most, no quotation marks and no
line breaks; a checklist is of one day and one place. What a recorder found isn't a person's observation: eBird asks for
an account of its own, for `Incidental`, and for comments that tell how it was found (its BirdCast team on NFC-L,
https://www.mail-archive.com/nfc-l@mm.list.cornell.edu/msg00949.html). Birds aren't counted: X.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

from keras_birds.birdnet.taxonomy import class_of
from keras_birds.errors import DataError
from keras_birds.results.sites import Deployment
from keras_birds.results.writers.files import new_text
from keras_birds.survey.citation import Method
from keras_birds.survey.published import Publication, Sound

COLUMNS = (
    *(
        "Common Name",
        "Genus",
        "Species",
        "Number",
        "Species Comments",
        "Location Name",
        "Latitude",
        "Longitude",
    ),
    *("Date", "Start Time", "State/Province", "Country Code", "Protocol", "Number of Observers", "Duration"),
    *("All observations reported?", "Effort Distance Miles", "Effort area acres", "Submission Comments"),
)
"""In order; state and country follow from the place."""

FILE_BYTES = 1_000_000
"""The most that eBird takes in one file."""


@dataclass
class _Species:
    common_name: str
    detections: int = 0
    best: float = 0.0


@dataclass
class _Checklist:
    """A site's day."""

    deployment: Deployment
    began: datetime
    ended: datetime
    recorded_s: float = 0.0
    species: dict[str, _Species] = field(default_factory=dict)


def write_ebird(publication: Publication, method: Method, protocol: str, out: Path) -> list[Path]:
    """Writes `ebird-001.csv` and so on, checklists whole; returns them.

    Args:
        publication: what is published.
        method: how the sounds were found.
        protocol: `incidental` or `stationary`; a stationary checklist tells how many minutes were recorded.
        out: a folder, made if missing.

    Raises:
        DataError: if there is nothing that eBird takes; or as `Publication.recordings`.
        KerasBirdsError: if a file can't be written.
    """
    checklists = _checklists(publication)
    texts = [_rows(x, method, protocol) for _, x in sorted(checklists.items()) if x.species]
    if not texts:
        raise DataError(
            "eBird takes birds by their scientific names. Received: no detection of any in the deployments. Lower "
            "--min-score, or choose --format darwin-core"
        )
    paths = []
    for number, text in enumerate(_filled(texts), 1):
        paths.append(out / f"ebird-{number:03d}.csv")
        with new_text(paths[-1], "strict") as stream:
            stream.write(text)
    return paths


_Day = tuple[str, float, float, date]


def _checklists(publication: Publication) -> dict[_Day, _Checklist]:
    found: dict[_Day, _Checklist] = {}
    for recorded, sounds in publication.recordings():
        place, local = recorded.deployment, recorded.began.replace(tzinfo=None)

        def day_of(at: datetime, place: Deployment = place) -> _Checklist:
            key = place.site, place.latitude, place.longitude, at.date()
            if key not in found:
                found[key] = _Checklist(place, at, at)
            return found[key]

        for begin_s, end_s in recorded.recording.scored_parts_s:
            for at, seconds in _days(local + timedelta(seconds=begin_s), local + timedelta(seconds=end_s)):
                day = day_of(at)
                day.began = min(day.began, at)
                day.ended = max(day.ended, at + timedelta(seconds=seconds))
                day.recorded_s += seconds
        for sound in sounds:
            if sound.kind != "animal" or class_of(sound.scientific_name) != "Aves":
                publication.leave_out("what is no bird")
                continue
            _add(day_of(local + timedelta(seconds=sound.start_s)), sound)
    return found


def _days(at: datetime, end: datetime) -> Iterator[tuple[datetime, float]]:
    """When the parts of a time on each day begin, and how long they are in seconds."""
    while at < end:
        until = min(end, datetime.combine(at.date() + timedelta(days=1), datetime.min.time()))
        yield at, (until - at).total_seconds()
        at = until


def _add(day: _Checklist, sound: Sound) -> None:
    species = day.species.setdefault(sound.scientific_name, _Species(sound.common_name))
    species.detections += 1
    species.best = max(species.best, sound.score)


def _rows(day: _Checklist, method: Method, protocol: str) -> str:
    """A checklist's rows."""
    place, is_stationary = day.deployment, protocol == "stationary"
    # Recorders at work at once are heard at once.
    recorded_s = min(day.recorded_s, (day.ended - day.began).total_seconds())
    minutes = max(1, round(recorded_s / 60))
    comments = f"Unattended recorder, {minutes / 60:.3g} h of sound. {method.sentence}"
    after = (
        *(place.site, f"{place.latitude:.6f}", f"{place.longitude:.6f}"),
        *(f"{day.began:%m/%d/%Y}", f"{day.began:%H:%M}", "", "", protocol.capitalize(), "1"),
        *(str(minutes) if is_stationary else "", "N", "", "", comments),
    )
    lines = []
    for scientific, x in sorted(day.species.items()):
        genus, _, epithet = scientific.partition(" ")
        calls = f"{x.detections} detection{'s' * (x.detections != 1)}; best score {x.best:.2f}"
        cells = (x.common_name, genus, epithet, "X", calls, *after)
        lines.append(",".join(map(_plain, cells)) + "\n")
    return "".join(lines)


def _plain(text: str) -> str:
    """Without what eBird doesn't take in a cell, quotes, or would take for its end."""
    return re.sub(r"\s+", " ", text.replace('"', "'").replace(",", ";")).strip()


def _filled(texts: Sequence[str]) -> Iterator[str]:
    """Checklists in as few files as hold them in order."""
    held: list[str] = []
    size = 0
    for text in texts:
        more = len(text.encode())
        if held and size + more > FILE_BYTES:
            yield "".join(held)
            held, size = [], 0
        held.append(text)
        size += more
    yield "".join(held)
