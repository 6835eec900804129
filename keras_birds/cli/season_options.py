"""Options of commands that read a folder of results as a season."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_birds.cli.options import EXISTING_FILE, Command, bundled
from keras_birds.cli.origin_options import read_table, table_options
from keras_birds.cli.rules_options import threshold

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
        from keras_birds.survey.season import read_season

        names = None if self.species is None else read_names(self.species)
        rows = read_table(self.sites, self.deployments)
        return read_season(results, rows, self.timezone, self.threshold, names)


def season_options(command: Command) -> Command:
    """Adds `table_options`, `--threshold` and `--species`; the command gets a `SeasonChoice`
    as `choice`."""
    least = "Count detections from this score on; or a CSV with columns label and threshold. [default: all]"
    names = "Count only these: a label, a scientific or common name, or Scientific_Common, one a line."
    return bundled(
        command,
        "choice",
        SeasonChoice,
        *table_options,
        click.option("--threshold", type=threshold, metavar="P|FILE", help=least),
        click.option("--species", type=EXISTING_FILE, help=names),
    )
