"""Windows of recordings that nobody labelled, with the probability of each label that a model gave them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_birds.atomic import atomic_path
from keras_birds.data.windows import Window
from keras_birds.errors import DataError
from keras_birds.labels import LabelSet

TARGET = "target/"


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """What training takes of recordings without labels: windows, and float32 targets `[window, label]` in 0 to 1."""

    windows: tuple[Window, ...]
    labels: LabelSet
    targets: np.ndarray

    def __post_init__(self) -> None:
        shape = len(self.windows), len(self.labels)
        if self.targets.shape != shape:
            raise DataError(
                f"soft labels must be {shape}, by windows and labels. Received: {self.targets.shape}"
            )

    def surest(self, per_label: int) -> "SoftLabels":
        """So many windows of each label at most, those that have most of it; a window is of the label it has most of.

        Windows without any label stay.
        """
        most = pd.Series(self.targets.max(axis=1))
        place = most.groupby(self.targets.argmax(axis=1)).rank(method="first", ascending=False)
        rows = np.flatnonzero((place <= per_label) | (most == 0))
        return SoftLabels(tuple(self.windows[row] for row in rows), self.labels, self.targets[rows])

    def write(self, path: Path) -> None:
        """Writes Parquet: `path`, `start_s`, `end_s`, then `target/LABEL` for each label."""
        columns: dict[str, Any] = {"path": [str(x.path) for x in self.windows]}
        columns |= {x: [getattr(window, x) for window in self.windows] for x in ("start_s", "end_s")}
        columns |= {TARGET + label: self.targets[:, i] for i, label in enumerate(self.labels)}
        with atomic_path(path) as temporary:
            pd.DataFrame(columns).to_parquet(temporary, index=False)

    @classmethod
    def read(cls, path: Path, labels: LabelSet) -> "SoftLabels":
        """Reads what `write` wrote; a `DataError` if it can't, or there are other labels."""
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: must be a table of soft labels. Received: {error}") from None
        columns = ["path", "start_s", "end_s", *(TARGET + x for x in labels)]
        if list(table.columns) != columns:
            odd = next((x for x in columns if x not in table), "other columns, or in another order")
            raise DataError(f"{path}: must have the data set's labels. Received: without {odd}")
        places = zip(table["path"], table["start_s"], table["end_s"], strict=True)
        windows = tuple(Window(Path(x), float(start), float(end)) for x, start, end in places)
        return cls(windows, labels, table[columns[3:]].to_numpy(np.float32))
