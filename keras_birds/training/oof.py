"""Out-of-fold scores: what a fold's best model says of the recordings that it never trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_birds.atomic import atomic_path
from keras_birds.data.catalog import window_of
from keras_birds.errors import AudioError, ModelError
from keras_birds.inference.aggregate import aggregated
from keras_birds.inference.scorer import PART_WINDOWS, ScoreOptions, score_recordings
from keras_birds.labels import LabelSet
from keras_birds.models.engines import load_engine
from keras_birds.models.ensemble import Ensemble
from keras_birds.progress import Reporter

_SCORE, _TARGET = "score/", "target/"


@dataclass(frozen=True)
class OutOfFold:
    """A row a validation recording or window, by its path as in `Catalog.relative_paths`; a column a label.

    Scores are float32 probabilities `[recording, label]`, targets as many, 0 to 1, or -1 for ignored.
    """

    paths: tuple[str, ...]
    labels: LabelSet
    scores: np.ndarray
    targets: np.ndarray

    @property
    def recordings(self) -> np.ndarray:
        """Which recording each row is of, int `[row]` from 0: windows of one are drawn together."""
        places: dict[str, int] = {}
        names = [window[0] if (window := window_of(x)) else x for x in self.paths]
        return np.array([places.setdefault(x, len(places)) for x in names], int)

    def write(self, path: str | Path) -> None:
        """Writes Parquet: `path`, then `score/LABEL` and `target/LABEL` for each label."""
        columns: dict[str, Any] = {"path": list(self.paths)}
        for prefix, values in ((_SCORE, self.scores), (_TARGET, self.targets)):
            columns.update({prefix + label: values[:, i] for i, label in enumerate(self.labels)})
        with atomic_path(path) as temporary:
            pd.DataFrame(columns).to_parquet(temporary, index=False)

    @classmethod
    def read(cls, path: str | Path) -> "OutOfFold":
        """Reads what `write` wrote; a `ModelError` if it can't."""
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: must be out-of-fold scores. Received: {error}") from None
        names = [x.removeprefix(_SCORE) for x in table.columns if x.startswith(_SCORE)]
        scores, targets = (table[[p + x for x in names]].to_numpy(np.float32) for p in (_SCORE, _TARGET))
        return cls(tuple(table["path"]), LabelSet(names), scores, targets)


def score_whole(model: Path, paths: Sequence[str], reporter: Reporter) -> np.ndarray:
    """A model's probabilities of recordings, float32 `[recording, label]`: the mean over windows, as `predict` gives.

    Raises:
        AudioError: if a recording can no longer be read.
    """
    ensemble, rows = Ensemble([load_engine(model)]), []
    parts = score_recordings(ensemble, paths, ScoreOptions(part_windows=PART_WINDOWS))
    for recording, scores in aggregated(parts, "mean"):
        if scores is None:
            raise AudioError(recording.file, recording.reason, recording.status)
        rows.append(scores)
        reporter.progress("Scoring recordings", len(rows), len(paths))
    reporter.progress("Scoring recordings", 0, 0)
    return np.stack(rows)
