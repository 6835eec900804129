"""Options of where and when recordings were made, and what is told of that in the end."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_birds.cli.options import EXISTING_FILE, Command, bundled, warn
from keras_birds.cli.rules_options import PlaceChoice
from keras_birds.text import printable

if TYPE_CHECKING:
    from keras_birds.inference.scorer import RecordingStatus
    from keras_birds.results.origin import Origins
    from keras_birds.results.sites import Site


@dataclass(frozen=True)
class OriginChoice:
    """What `origin_options` say."""

    sites: Path | None
    deployments: Path | None
    timezone: str | None
    time_pattern: str | None

    @property
    def table(self) -> str:
        """What the rows of the table are; empty without one."""
        return "site" if self.sites else "deployment" if self.deployments else ""

    def read(self, place: PlaceChoice) -> "Origins":
        """Reads the table."""
        from keras_birds.results.origin import Origins
        from keras_birds.results.sites import overlaps

        rows = read_table(self.sites, self.deployments, place.degrees) or ()
        for said in overlaps(rows):
            warn(str(self.deployments), said)
        return Origins(rows, place.degrees, self.timezone or "", self.time_pattern)


def read_table(
    sites: Path | None, deployments: Path | None, degrees: tuple[float, float] | None = None
) -> "tuple[Site, ...] | None":
    """Reads the table that was given, `None` without one; a `UsageError` if places are given twice."""
    from keras_birds.results.sites import read_deployments, read_sites

    given = {"--sites": sites, "--deployments": deployments, "--lat and --lon": degrees}
    names = [x for x, value in given.items() if value is not None]
    if len(names) > 1:
        raise click.UsageError(f"{names[0]} says where recordings were made: leave out {names[1]}")
    if deployments is not None:
        return read_deployments(deployments)
    return None if sites is None else read_sites(sites)


table_options = (
    click.option(
        "--sites",
        type=EXISTING_FILE,
        help="Many places: a CSV with pattern, latitude, longitude, and perhaps site and timezone.",
    ),
    click.option(
        "--deployments",
        type=EXISTING_FILE,
        help="Recorders in the field: a CSV with deployment, site, latitude, longitude, start, end, and pattern or "
        "recorder.",
    ),
    click.option(
        "--timezone",
        metavar="ZONE",
        help="Timezone of the places, and of clocks that tell none: Europe/Berlin, UTC, +02:00.",
    ),
)
"""Of where recordings were made."""


def origin_options(command: Command) -> Command:
    """Adds `--sites`, `--deployments`, `--timezone` and `--time-pattern`; the command gets an `OriginChoice`."""
    pattern = "How names tell the time: REC_%Y%m%d_%H%M%S. [default: the common ways]"
    return bundled(
        command,
        "origin",
        OriginChoice,
        *table_options,
        click.option("--time-pattern", help=pattern),
    )


class OriginCounter:
    """Counts of which recordings it isn't known where or when they were made, or is told in two ways.

    Args:
        asks_what_occurs: whether labels are left out by place and week.
        table: what rows of the table are, `site` or `deployment`; empty without a table.
        asks_when: whether to tell of recordings without a time where others have one.
    """

    def __init__(self, asks_what_occurs: bool, table: str = "", asks_when: bool = False):
        self._asks, self._table, self._asks_when = asks_what_occurs, table, asks_when
        self._whole_year = self._placeless = self._unmatched = self._noted = 0
        self._timed = self._timeless = 0
        self._first = self._first_timeless = ""

    def add(self, recording: "RecordingStatus") -> None:
        """Takes a scored recording."""
        from keras_birds.results.occurrence import WHOLE_YEAR
        from keras_birds.results.origin import notes_on

        self._whole_year += recording.week == WHOLE_YEAR
        self._placeless += self._asks and recording.origin.latitude is None
        if recording.origin.began:
            self._timed += 1
        else:
            self._timeless += 1
            self._first_timeless = self._first_timeless or printable(recording.file)
        self._unmatched += bool(self._table) and not recording.origin.site
        if notes := notes_on(recording):
            self._noted += 1
            self._first = self._first or f"{printable(recording.file)}: {notes}"

    def told(self) -> Iterator[str]:
        """What to tell, a clause each."""
        if self._whole_year:
            yield f"{self._whole_year} of the recordings tell no date: the whole year counts there"
        if self._asks_when and self._timed and self._timeless:
            yield f"{self._timeless} of the recordings tell no time, the first {self._first_timeless}"
        if self._unmatched:
            yield f"{self._unmatched} of the recordings match no {self._table}"
        if self._placeless:
            yield f"{self._placeless} of the recordings tell no place: every label counts there"
        if self._noted:
            yield f"{self._noted} of the recordings have notes on time, place or recorder, the first {self._first}"
