"""The hidden recordings as test soundscapes: cut into windows, scored by the folds together, judged as a submission."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from keras_birds.data.catalog import Catalog
from keras_birds.evaluation.bootstrap import Interval, interval, macro_auc_draws
from keras_birds.inference.classifier import Classifier
from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.inference.scorer import ScoreOptions, score_recordings
from keras_birds.nn.metrics import label_aucs
from keras_birds.results.writers.submission import write_submission

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class HiddenFigures:
    """How the ensemble of folds does on recordings that neither training nor the choice of an epoch has seen.

    Args:
        recordings, left_out: those that have a full window, and those that can't be read or are shorter.
        windows: rows of the submission.
        labels: with a positive window and a negative one, which the macro ROC-AUC over windows covers.
    """

    recordings: int
    left_out: int
    windows: int
    labels: int
    macro_auc: Interval
    submission: Path


def score_hidden(
    classifier: Classifier,
    catalog: Catalog,
    rows: np.ndarray,
    targets: np.ndarray,
    out: Path,
    progress: Callable[[int, int], None],
) -> HiddenFigures:
    """Scores hidden recordings, writes `submission.csv` and judges what stands in it.

    Args:
        classifier: the ensemble.
        catalog, targets: the data set, and float32 `[n, label]` of all of it.
        rows: int, the hidden recordings.
        out: folder for the submission.
        progress: is told how many recordings are done, of how many; 0 of 0 at the end.
    """
    paths = [str(catalog.recordings["path"][row]) for row in rows]
    names = _row_names([catalog.relative_paths[row] for row in rows])

    def tables() -> "Iterator[tuple[RecordingStatus, list[pa.RecordBatch]]]":
        import pyarrow as pa

        scored = score_recordings(classifier, paths, ScoreOptions())
        for done, (name, found) in enumerate(zip(names, scored, strict=True), 1):
            columns = {label: found.scores[:, i] for i, label in enumerate(classifier.labels)}
            table = pa.table({"start_s": found.start_s, "end_s": found.end_s, **columns})
            yield replace(found.recording, file=name), table.to_batches()
            progress(done, len(paths))
        progress(0, 0)

    written = write_submission(tables(), list(classifier.labels), classifier.audio.clip_s, out)
    table = pd.read_csv(written.path, dtype={"row_id": str})
    row_of = {Path(name).stem: row for name, row in zip(names, rows, strict=True)}
    windows = np.array([row_of[x.rpartition("_")[0]] for x in table["row_id"]], int)
    scores = table[list(classifier.labels)].to_numpy(np.float64)
    scored, recordings = np.unique(windows, return_inverse=True)
    areas = label_aucs(targets[windows], scores)
    defined = areas[~np.isnan(areas)]
    value = float(defined.mean()) if len(defined) else float("nan")
    draws = macro_auc_draws(targets[windows], scores, recordings=recordings)
    counts = len(scored), len(rows) - len(scored), len(windows), len(defined)
    return HiddenFigures(*counts, interval(value, draws), written.path)


def _row_names(paths: list[str]) -> list[str]:
    """The paths, or their names alone where those differ from one another: what a submission calls recordings."""
    names = [Path(x).name for x in paths]
    is_unique = len({Path(x).stem for x in names}) == len(names)
    return names if is_unique else [x.replace("/", "_") for x in paths]
