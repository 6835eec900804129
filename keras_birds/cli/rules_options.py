"""Options of what a detection is: how probable, of which labels, and what occurs at a place."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_birds.cli.options import EXISTING_FILE, SHARE, Command, bundled, warn

if TYPE_CHECKING:
    from keras_birds.labels import LabelSet
    from keras_birds.models.ensemble import Ensemble
    from keras_birds.results.detections import DetectionRules
    from keras_birds.results.occurrence import Occurrence


def threshold(value: str) -> float | Path:
    """Reads a number, or an existing file."""
    with suppress(ValueError):
        return float(value)
    if not Path(value).is_file():
        raise click.BadParameter(f"must be a number or an existing CSV file. Received: {value}")
    return Path(value)


@dataclass(frozen=True)
class RulesChoice:
    """What `rules_options` say."""

    threshold: float | Path
    species: Path | None
    strict_species: bool
    no_voices: float | None

    def read(self, labels: "LabelSet", **others: Any) -> "DetectionRules":
        """Reads the files, with others as for `DetectionRules.of`; names that the model doesn't know are told."""
        from keras_birds.results.detections import DetectionRules, read_species

        chosen = None
        if self.species is not None:
            chosen, unknown = read_species(self.species, labels, self.strict_species)
            if unknown:
                warn(str(self.species), f"the model doesn't know {_some(unknown)}; left out")
        return DetectionRules.of(labels, self.threshold, chosen, no_voices=self.no_voices, **others)


def rules_options(command: Command) -> Command:
    """Adds `--threshold`, `--species`, `--no-voices` and more; the command gets a `RulesChoice` as `rules`."""
    least = "Least probability of a detection, BirdNET's minimum confidence; or a CSV with columns label and threshold."
    names = "Detect only these: a label, a scientific or common name, or Scientific_Common, one a line."
    voices = "Leave out windows in which people speak with this probability or more, and their neighbours (BirdNET)."
    strict = "Refuse a --species list with a name that isn't known."
    return bundled(
        command,
        "rules",
        RulesChoice,
        click.option("--threshold", type=threshold, default=0.25, metavar="P|FILE", help=least),
        click.option("--species", type=EXISTING_FILE, help=names),
        click.option("--strict-species", is_flag=True, help=strict),
        click.option("--no-voices", type=SHARE, metavar="P", help=voices),
    )


@dataclass(frozen=True)
class PlaceChoice:
    """What `place_options` say."""

    lat: float | None
    lon: float | None
    week: int | None
    least: float | None

    @property
    def degrees(self) -> tuple[float, float] | None:
        """Latitude and longitude, if they are given; a `UsageError` if only one of them is."""
        if self.lat is None and self.lon is None:
            return None
        if self.lat is None or self.lon is None:
            received = f"--lat {self.lat:g}" if self.lon is None else f"--lon {self.lon:g}"
            raise click.UsageError(f"--lat and --lon must be given together. Received: {received} alone")
        return self.lat, self.lon

    def read(
        self, ensemble: "Ensemble", has_sites: bool = False, elsewhere: str = ", or --occurrence"
    ) -> "Occurrence | None":
        """Loads the range model; `None` where nobody asks what occurs. Told are labels that it doesn't know.

        Args:
            ensemble: the model that scores.
            has_sites: whether a table of sites says where recordings were made.
            elsewhere: what else may, in words; empty where nothing but `--lat` and `--lon` does.
        """
        from keras_birds.results.occurrence import THRESHOLD, Occurrence, find_range_model

        if self.degrees is None and not has_sites and (self.least is None or not elsewhere):
            for option, value in (("--week", self.week), ("--occurrence", self.least)):
                if value is not None:
                    raise click.UsageError(f"{option} needs a place: pass --lat and --lon{elsewhere} as well")
            return None
        path = ensemble.engines[0].path
        least = THRESHOLD if self.least is None else self.least
        found = Occurrence(ensemble.labels, find_range_model(path), self.week, least)
        if found.unknown:
            rule = f"the range model knows nothing of {len(found.unknown)} of {len(ensemble.labels)} labels"
            warn(str(path), f"{rule}, which are never left out: {_some(found.unknown, 3)}")
        return found


def place_options(command: Command) -> Command:
    """Adds `--lat`, `--lon`, `--week` and `--occurrence`; the command gets a `PlaceChoice` as `place`."""
    north = "Where it was recorded, degrees north: leave out labels that don't occur there (BirdNET's range model)."
    week = "When: 1 to 48, four a month. [default: by the date that a file or its name tells, else the whole year]"
    least = "The least probability of occurrence that a label needs; alone: where files tell places. [default: 0.03]"
    return bundled(
        command,
        "place",
        PlaceChoice,
        click.option("--lat", type=click.FloatRange(-90, 90), metavar="DEGREES", help=north),
        click.option("--lon", type=click.FloatRange(-180, 180), metavar="DEGREES", help="Degrees east."),
        click.option("--week", type=click.IntRange(1, 48), help=week),
        click.option("--occurrence", "least", type=SHARE, metavar="P", help=least),
    )


def _some(names: list[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
