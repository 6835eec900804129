"""Which labels may be in a data set's recordings, by the places where they were made."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from keras_birds.birdnet.range_model import FILE, THRESHOLD, RangeModel
from keras_birds.data.catalog import Catalog
from keras_birds.data.names import match_labels
from keras_birds.errors import DataError, ModelError
from keras_birds.evaluation.answers import Allowed
from keras_birds.labels import LabelSet
from keras_birds.models.library import added_models

_KEPT = 1024  # places, 7 KB each of 6,522 labels


def range_filter(catalog: Catalog, labels: LabelSet, model: Path) -> Allowed:
    """Which labels occur, in the whole year, at the latitude and longitude of a row; all where it has none.

    Labels that the range model doesn't know are allowed everywhere.

    Args:
        catalog: the recordings.
        labels: of the model.
        model: its file. The range model is the one beside it, else that of an added model.

    Raises:
        DataError: if no recording has a latitude and a longitude.
        ModelError: if there is no range model; it says how to get one.
    """
    places = catalog.recordings[["latitude", "longitude"]].to_numpy(float)
    has_place = np.isfinite(places).all(axis=1)
    if not has_place.any():
        raise DataError(
            f"{catalog.root}: --range must have the columns latitude and longitude (data.column_latitude, "
            "data.column_longitude). Received: no recording with both"
        )
    ranges = _find_range_model(model)
    columns = match_labels(labels, ranges.labels)

    @lru_cache(_KEPT)
    def at(latitude: float, longitude: float) -> np.ndarray:
        return (columns < 0) | (ranges(latitude, longitude, -1)[0][columns] >= THRESHOLD)

    return lambda row: at(*places[row]) if has_place[row] else np.ones(len(labels), bool)


def _find_range_model(model: Path) -> RangeModel:
    folders = [x for x in (model.parent, *added_models().values()) if (x / FILE).is_file()]
    if not folders:
        raise ModelError(
            f"--range must find BirdNET's range model. Received: none beside {model} or an added model. Add it once "
            "with `keras-birds models add birdnet`"
        )
    return RangeModel.load(folders[0])
