"""Options of commands that read a folder of results as a season."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_birds.cli.options import EXISTING_FILE, Command, bundled
from keras_birds.cli.rules_options import threshold
from keras_birds.text import printable

if TYPE_CHECKING:
    from keras_birds.survey.season import Season


@dataclass(frozen=True)
class SeasonChoice:
    """What `season_options` say."""

    sites: Path | None
    deployments: Path | None
    timezone: str | None
    threshold: float | Path | None
    species: Path | None

    def read(self, results: Path) -> "Season":
        """Reads the tables and the results."""
        from keras_birds.results.detections import read_names
        from keras_birds.results.sites import Site, read_deployments, read_sites
        from keras_birds.survey.season import read_season

        if self.sites and self.deployments:
            raise click.UsageError("--deployments says where recordings were made: leave out --sites")
        rows: Sequence[Site] | None = None
        if self.deployments:
            rows = read_deployments(self.deployments)
        elif self.sites:
            rows = read_sites(self.sites)
        names = None if self.species is None else read_names(self.species)
        return read_season(results, rows, self.timezone, self.threshold, names)


def season_options(command: Command) -> Command:
    """Adds `--deployments`, `--sites`, `--timezone`, `--threshold` and `--species`; the command gets a `SeasonChoice`
    as `choice`."""
    deployments = (
        "Recorders in the field: a CSV with deployment, site, latitude, longitude, start, end, pattern."
    )
    sites = "Or places alone: a CSV with pattern, latitude, longitude, and perhaps site and timezone."
    timezone = "Timezone of the places, and of clocks that tell none: Europe/Berlin, UTC, +02:00."
    least = "Count detections from this score on; or a CSV with columns label and threshold. [default: all]"
    names = "Count only these: a label, a scientific or common name, or Scientific_Common, one a line."
    return bundled(
        command,
        "choice",
        SeasonChoice,
        click.option("--deployments", type=EXISTING_FILE, help=deployments),
        click.option("--sites", type=EXISTING_FILE, help=sites),
        click.option("--timezone", metavar="ZONE", help=timezone),
        click.option("--threshold", type=threshold, metavar="P|FILE", help=least),
        click.option("--species", type=EXISTING_FILE, help=names),
    )


def report(lines: Sequence[str], files: Sequence[Path]) -> None:
    """Tells what was found on stderr, and which files were written on stdout, the first 20."""
    for line in lines:
        click.echo(printable(line), err=True)
    more = [f"... and {len(files) - 20} more"] if len(files) > 20 else []
    click.echo("\n".join([*map(printable, files[:20]), *more]))
