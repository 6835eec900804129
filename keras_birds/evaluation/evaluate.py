"""Everything that a run's own files tell of how good it is, as one object; `report.py` writes it down."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic_core import to_jsonable_python

from keras_birds.data.catalog import Catalog
from keras_birds.data.folds import Split
from keras_birds.data.tables import load_table
from keras_birds.errors import DataError
from keras_birds.evaluation import metrics
from keras_birds.evaluation.bootstrap import Interval, interval, macro_auc_draws
from keras_birds.evaluation.metrics import Confusion, FoldFigures, fold_figures
from keras_birds.evaluation.run_scores import RunScores, read_run
from keras_birds.inference.classifier import load
from keras_birds.inference.scorer import RecordingStatus, ScoreOptions, score_recordings
from keras_birds.nn.metrics import label_aucs, macro_auc
from keras_birds.plots.reliability import reliability
from keras_birds.progress import Reporter
from keras_birds.results.writers.submission import write_submission
from keras_birds.run_layout import SPLIT
from keras_birds.training.run_directory import read_data_dir
from keras_birds.training.stored import read_learned

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Leaks:
    """How many sources, as the data set's author column names them, lie in more than one part of a split (`divided`).

    `recordings` are those of divided sources, for instance of `example`, `named` all that name a source.
    """

    sources: int
    divided: int
    recordings: int
    named: int
    example: str


def find_leaks(run: Path) -> Leaks:
    """Whether recordings of one source, cut from one tape or made by one recordist, sit on both sides of a run's split.

    Raises:
        DataError: if the split can't be read.
    """
    split = load_table(run / SPLIT, "a split", ("fold", "author"))
    named = split[split["author"] != ""]
    groups = named.groupby("author")["fold"]
    parts, sizes = groups.nunique(), groups.size()
    divided = parts[parts > 1].index
    example = str(sizes[divided].idxmax()) if len(divided) else ""
    return Leaks(len(parts), len(divided), int(sizes[divided].sum()), len(named), example)


@dataclass(frozen=True)
class OtherFolds:
    """The same recipe under other folds: its run, how recordings are divided, mean figures, leaks of its split."""

    run: Path
    strategy: str
    mean: FoldFigures
    leaks: Leaks


@dataclass(frozen=True)
class HiddenFigures:
    """How the folds together do on recordings that neither training nor the choice of an epoch has seen.

    `recordings` have a full window, those `left_out` can't be read or are shorter; `windows` are the submission's
    rows; `labels` have a positive window and a negative one, which the macro ROC-AUC over windows covers.
    """

    recordings: int
    left_out: int
    windows: int
    labels: int
    macro_auc: Interval
    submission: Path


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was found out: how recordings are divided (`strategy`), figures, and what couldn't be done (`notes`).

    `labels` and `groups` are from `label_table` and `group_table`; `confusions` begin with the most frequent pair;
    `catalog` is the data set, where it could be read.
    """

    scores: RunScores
    strategy: str
    threshold: float
    folds: Sequence[FoldFigures]
    mean: FoldFigures
    labels: pd.DataFrame
    groups: pd.DataFrame
    confusions: Sequence[Confusion]
    leaks: Leaks
    other: OtherFolds | None
    hidden: HiddenFigures | None
    catalog: Catalog | None
    notes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """As plain data that JSON can hold: what isn't a number is `None`."""
        scores, calibration = self.scores, self.scores.calibration
        same = ("strategy", "threshold", "folds", "mean", "confusions", "leaks", "hidden", "notes")
        found = {name: getattr(self, name) for name in same} | {
            "run": scores.run,
            "model_ids": [x.metadata.model_id for x in scores.folds],
            "groups": self.groups.to_dict("records"),
            "labels": self.labels.to_dict("records"),
            "other_folds": self.other,
            "calibration_error": {
                "before": reliability(scores.targets, scores.scores).error,
                "after": None if calibration is None else calibration.error_after,
            },
        }
        plain: dict[str, Any] = to_jsonable_python(found, inf_nan_mode="null", fallback=lambda x: x.item())
        return plain


def evaluate(
    run: str | Path,
    out: Path,
    data: Path | None = None,
    threshold: float = 0.25,
    against: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Evaluates a run, given by its directory.

    Args:
        out: folder for the hidden recordings' `submission.csv`.
        data: the data set's folder; `None` for where it lay in training, else hidden recordings aren't scored.
        threshold: from which score on a label counts as there.
        against: a run of the same recipe under other folds.
        reporter: gets progress.

    Raises:
        ModelError, DataError: if the run, the data set or a file of them can't be used.
    """
    reporter = reporter or Reporter()
    scores = read_run(run)
    notes: list[str] = []
    resampling = partial(reporter.progress, "Resampling folds")
    folds, mean = fold_figures(scores, threshold, resampling)
    catalog = hidden = other = None
    store = scores.config.data.embeddings
    root = data or (None if store and not Path(store).is_dir() else read_data_dir(scores.run))
    if root is None:
        missing = "The data set isn't where it was in training: no clips, no hidden recordings"
        notes.append(f"{missing}. Pass --data DIR.")
    else:
        catalog = read_learned(root, scores.config)
        catalog.require_clean()
        hidden = _hidden(scores, catalog, out, reporter, notes)
    if against is not None:
        compared = read_run(against)
        _, other_mean = fold_figures(compared, threshold, resampling)
        other = OtherFolds(compared.run, _strategy(compared), other_mean, find_leaks(compared.run))
    labels = metrics.label_table(scores, threshold)
    tables = labels, metrics.group_table(labels), metrics.confusions(scores)
    parts = *tables, find_leaks(scores.run), other, hidden, catalog, tuple(notes)
    return Evaluation(scores, _strategy(scores), threshold, folds, mean, *parts)


def _hidden(
    scores: RunScores, catalog: Catalog, out: Path, reporter: Reporter, notes: list[str]
) -> HiddenFigures | None:
    rows = Split.load(scores.run / SPLIT, catalog).hidden_rows
    if not len(rows):
        why = 'folds.strategy = "column" hides none' if scores.config.folds.strategy == "column" else ""
        notes.append(f"No recordings are hidden: {why or 'folds.hidden_fraction is too small'}.")
        return None
    if catalog.known is not None:
        notes.append(
            "The hidden windows make no submission: judge a model of annotations with --annotations."
        )
        return None
    try:
        return _score_hidden(scores, catalog, rows, out, partial(reporter.progress, "Hidden recordings"))
    except DataError as error:
        # For instance clips of half a second, whose rows BirdCLEF has no names for.
        notes.append(f"The hidden recordings make no submission: {error}")
        return None


def _score_hidden(
    run: RunScores, catalog: Catalog, rows: np.ndarray, out: Path, progress: Callable[[int, int], None]
) -> HiddenFigures:
    """Writes the `submission.csv` of the hidden recordings, by the folds together, and judges what stands in it."""
    classifier, paths = load(run.run), [str(catalog.recordings["path"][row]) for row in rows]
    places = [catalog.relative_paths[row] for row in rows]
    # A submission calls a recording by its name, or by its path where names aren't unique.
    is_unique = len({Path(x).stem for x in places}) == len(places)
    names = [Path(x).name if is_unique else x.replace("/", "_") for x in places]

    def tables() -> "Iterator[tuple[RecordingStatus, list[pa.RecordBatch]]]":
        import pyarrow as pa

        scored = score_recordings(classifier, paths, ScoreOptions())
        for done, (name, found) in enumerate(zip(names, scored, strict=True), 1):
            columns = {label: found.scores[:, i] for i, label in enumerate(classifier.labels)}
            table = pa.table({"start_s": found.start_s, "end_s": found.end_s, **columns})
            yield replace(found.recording, file=name), table.to_batches()
            progress(done, len(paths))
        progress(0, 0)

    written = write_submission(tables(), list(classifier.labels), classifier.audio.window_s, out)
    table = pd.read_csv(written.path, dtype={"row_id": str})
    if table.empty:
        written.path.unlink()
        window_s = classifier.audio.window_s
        raise DataError(f"none of the {len(rows)} can be read and is as long as a window, {window_s:g} s")
    row_of = {Path(name).stem: row for name, row in zip(names, rows, strict=True)}
    windows = np.array([row_of[x.rpartition("_")[0]] for x in table["row_id"]], int)
    targets, scores = (
        catalog.targets(run.config.data)[windows],
        table[list(classifier.labels)].to_numpy(float),
    )
    scored, recordings = np.unique(windows, return_inverse=True)
    num_labels = int(np.isfinite(label_aucs(targets, scores)).sum())
    figure = interval(macro_auc(targets, scores), macro_auc_draws(targets, scores, recordings=recordings))
    counts = len(scored), len(rows) - len(scored), len(windows), num_labels
    return HiddenFigures(*counts, figure, written.path)


def _strategy(scores: RunScores) -> str:
    folds = scores.config.folds
    texts = {"grouped": f"grouped by {folds.column}", "column": f"read from column {folds.column}"}
    return texts.get(folds.strategy, folds.strategy)
