"""How probable it is that each label occurs where and when a recording was made."""

from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_birds.audio.recorder import Origin
from keras_birds.birdnet.range_model import FILE, NO_SPECIES, THRESHOLD, WEEKS, RangeModel
from keras_birds.data.names import match_labels
from keras_birds.errors import ConfigError, ModelError
from keras_birds.labels import LabelSet
from keras_birds.models.library import added_models
from keras_birds.models.metadata import ModelMetadata
from keras_birds.results.sites import check_place
from keras_birds.run_layout import METADATA

WHOLE_YEAR = -1
"""In place of a week: of recordings of which it isn't known when they were made."""

_KEPT = 1024  # places and weeks, 33 KB each of 6,522 labels


def week_of(day: date) -> int:
    """The week of a date, 1 to 48, four a month: `4 * (month - 1) + min(4, 1 + (day - 1) // 7)`.

    Weeks begin on the 1st, 8th, 15th and 22nd, as in eBird's bar charts, of which BirdNET's range model learnt, and as
    BirdNET-Analyzer counts its `--week` (four a month). birdnetlib makes `ceil(48 * day_of_year / days_of_year)` of its
    `date`, which is a week more or less on some days.
    """
    return 4 * (day.month - 1) + min(4, 1 + (day.day - 1) // 7)


class Presence(NamedTuple):
    """What may occur where and when a recording was made: place and week, and by label `[label]`."""

    latitude: float
    longitude: float
    week: int
    probabilities: np.ndarray
    """float32; NaN of labels that always stay."""
    allowed: np.ndarray
    """Whether it may be detected, bool."""


class Occurrence:
    """Tells of recordings which labels may occur where and when they were made; in the time that a look-up takes.

    Labels are matched to the range model's by their names and synonyms (`data.names`). What is no species (BirdNET's
    engines, voices, dogs and noises) and what the range model doesn't know always stays; so do labels that it knows but
    never learnt, as BirdNET's frogs and insects, which BirdNET-Analyzer leaves out everywhere.

    Args:
        labels: of the model that scores.
        model: of ranges.
        week: 1 to 48, of all recordings, or -1 for the whole year; `None` for the week in which each began.
        least: probability of occurrence that a label needs.

    Raises:
        ConfigError: if there is no such week or probability.
    """

    def __init__(
        self,
        labels: LabelSet,
        model: RangeModel,
        week: int | None = None,
        least: float = THRESHOLD,
    ):
        if week is not None and week != WHOLE_YEAR and not 1 <= week <= WEEKS:
            raise ConfigError(f"--week must be from 1 to {WEEKS}. Received: {week}")
        if not 0 <= least <= 1:
            raise ConfigError(f"--occurrence must be from 0 to 1. Received: {least:g}")
        self._model, self._week, self._least = model, week, least
        self._columns = _columns(labels, model)
        self.unknown = [
            x.name for x, column in zip(labels.items, self._columns, strict=True) if column == _UNKNOWN
        ]
        """Labels that the range model doesn't know."""
        self._at = lru_cache(_KEPT)(self._compute)

    def of(self, origin: Origin) -> Presence | None:
        """What may occur where and when a recording was made, in the whole year where its time isn't known.

        `None` where its place isn't known.
        """
        if origin.latitude is None or origin.longitude is None:
            return None
        week, local = self._week, origin.local
        if week is None:
            week = WHOLE_YEAR if local is None else week_of(local)
        return self.at(origin.latitude, origin.longitude, week)

    def at(self, latitude: float, longitude: float, week: int) -> Presence:
        """What may occur at a place in a week, 1 to 48, or -1 for the whole year."""
        return self._at(latitude, longitude, week)

    def _compute(self, latitude: float, longitude: float, week: int) -> Presence:
        # The model would see a gap of some percent between the two names of the date line.
        east = -180.0 if longitude == 180 else longitude
        found = self._model(latitude, east, week)[0]
        known = self._columns >= 0
        probabilities = np.where(known, found[np.where(known, self._columns, 0)], np.float32(np.nan))
        return Presence(latitude, longitude, week, probabilities, ~(probabilities < self._least))

    @property
    def settings(self) -> dict[str, Any]:
        """All that it depends on, as plain data."""
        return {
            "week": self._week,
            "occurrence": self._least,
            "range_model": self._model.digest,
        }


_NO_SPECIES, _UNKNOWN = -2, -1


def _columns(labels: LabelSet, model: RangeModel) -> np.ndarray:
    """Of each label the range model's column, or why it has none."""
    known = model.labels
    nowhere = {x.casefold() for x in NO_SPECIES}
    places = np.arange(len(known)) if labels == known else match_labels(labels, known)
    is_nowhere = [x.casefold() in nowhere for x in known] | ~model.learnt
    is_nowhere = np.append(is_nowhere, True)  # of -1
    is_species = [
        x.name.casefold() not in nowhere and not (x.scientific_name and x.scientific_name == x.common_name)
        for x in labels.items
    ]
    return np.where(is_species, np.where(is_nowhere[places], _UNKNOWN, places), _NO_SPECIES)


def find_range_model(model: Path | None = None) -> RangeModel:
    """Loads the range model beside a model's file, else that of the models that were added.

    Raises:
        ModelError: if there is none; it says how to get one.
    """
    return RangeModel.load(_range_folder(model))


def species_at(
    latitude: float, longitude: float, week: int, least: float | None = None
) -> list[tuple[str, str, float]]:
    """Scientific name, common name and probability of each species that may occur there then, the likeliest first.

    Args:
        latitude: degrees north.
        longitude: degrees east.
        week: 1 to 48, or -1 for the whole year.
        least: probability that is told; `None` for the usual one.

    Raises:
        ModelError: if no model with a range model was added.
        ConfigError: if there is no such place, week or probability.
    """
    folder = _range_folder()
    labels = ModelMetadata.read_json(folder / METADATA).labels
    check_place(latitude, longitude)
    model = RangeModel.load(folder)
    found = Occurrence(labels, model, week, THRESHOLD if least is None else least).at(
        latitude, longitude, week
    )
    likely = np.where(np.isnan(found.probabilities), -1, found.probabilities)
    order = np.argsort(-likely, kind="stable")[: int((found.allowed & (likely >= 0)).sum())]
    items = [(labels.items[k], float(likely[k])) for k in order]
    return [(x.scientific_name or x.name, x.common_name or x.display_name, p) for x, p in items]


def _range_folder(model: Path | None = None) -> Path:
    folders = [*([model.parent] if model else []), *added_models().values()]
    for folder in folders:
        if (folder / FILE).is_file():
            return folder
    beside = f"none beside {model} and " if model else ""
    raise ModelError(
        f"A place needs BirdNET's range model. Received: {beside}no added model that has one. Add it once with "
        "`keras-birds models add birdnet`"
    )
