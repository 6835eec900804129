"""Which labels may be in a data set's recordings, by where and when they were made."""

from contextlib import suppress
from datetime import date
from pathlib import Path

import numpy as np

from keras_birds.data.catalog import Catalog
from keras_birds.errors import DataError
from keras_birds.evaluation.answers import Allowed
from keras_birds.labels import LabelSet
from keras_birds.results.occurrence import WHOLE_YEAR, Occurrence, find_range_model, week_of

DATE = "date"
"""The column of dates, as 2024-05-31, where a data set has one."""


def range_filter(catalog: Catalog, labels: LabelSet, model: Path) -> Allowed:
    """Which labels occur at a row's latitude and longitude in the week of its date, in the whole year without one.

    All are allowed in rows without a place, as are labels that the range model doesn't know everywhere.

    Args:
        catalog: the recordings.
        labels: of the model.
        model: its file. The range model is the one beside it, else that of an added model.

    Raises:
        DataError: if no recording has a latitude and a longitude.
        ModelError: if there is no range model; it says how to get one.
    """
    recordings = catalog.recordings
    places = recordings[["latitude", "longitude"]].to_numpy(float)
    has_place = np.isfinite(places).all(axis=1)
    if not has_place.any():
        raise DataError(
            f"{catalog.root}: --range must have the columns latitude and longitude (data.column_latitude, "
            "data.column_longitude). Received: no recording with both"
        )
    dates = recordings[DATE] if DATE in recordings else [""] * len(recordings)
    weeks = [_week(text) for text in dates]
    occurrence = Occurrence(labels, find_range_model(model))

    def allowed(row: int) -> np.ndarray:
        if not has_place[row]:
            return np.ones(len(labels), bool)
        latitude, longitude = places[row]
        return occurrence.at(latitude, longitude, weeks[row]).allowed

    return allowed


def _week(text: str) -> int:
    with suppress(ValueError):
        return week_of(date.fromisoformat(text.strip()[:10]))
    return WHOLE_YEAR
