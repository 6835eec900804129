"""How good any model is on labelled recordings that it didn't learn from: figures, tables and a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic_core import to_jsonable_python

from keras_birds.atomic import write_json
from keras_birds.config import DataConfig
from keras_birds.data.catalog import Catalog, window_of
from keras_birds.data.folds import HIDDEN
from keras_birds.data.tables import load_table, write_table
from keras_birds.errors import DataError
from keras_birds.evaluation.answers import TOP, Allowed, Answers, Truth, answer_recordings, read_truth
from keras_birds.evaluation.bootstrap import Interval, interval, macro_auc_draws
from keras_birds.evaluation.metrics import label_average_precisions, label_rows, mean_of, precision_recall
from keras_birds.evaluation.report import JSON, LABELS
from keras_birds.inference.scorer import RecordingStatus
from keras_birds.labels import LabelSet
from keras_birds.models.ensemble import Ensemble
from keras_birds.nn.metrics import label_aucs
from keras_birds.plots.figure import save_png
from keras_birds.plots.report import auc_against_count_figure
from keras_birds.progress import Reporter
from keras_birds.results.report import describe_problem
from keras_birds.run_layout import SPLIT, fold_of

PREDICTIONS, FIGURE = "predictions.csv", "labels.png"


@dataclass(frozen=True)
class AnswerFigures:
    """How good one way to answer is; `answer` as in `Answers`, the others as in `FoldFigures`.

    All labels of the model are in the way of the shares of recordings that have a label that is there in the first
    place (`top1_accuracy`), and in the first five (`top5_accuracy`).
    """

    answer: str
    recordings: int
    labels: int
    macro_auc: Interval
    cmap: float
    top1_accuracy: float
    top5_accuracy: float
    precision: float
    recall: float


@dataclass(frozen=True, eq=False)
class ModelEvaluation:
    """What was found out of a model on a data set.

    Args:
        model_id: the model.
        data: the data set's folder.
        recordings: in the data set.
        threshold: from which score on a label counts as there.
        figures: of each way to answer.
        labels: a row a label and way to answer, as `label_table`, with `model_label` and `answer`.
        predictions: a row a recording and way to answer: its labels, where they come and the best labels.
        unknown: how many recordings have each label that the model doesn't know; they are left out.
        failed: of recordings that can't be read; they are left out.
    """

    model_id: str
    data: Path
    recordings: int
    threshold: float
    figures: Sequence[AnswerFigures]
    labels: pd.DataFrame
    predictions: pd.DataFrame
    unknown: dict[str, int]
    failed: Sequence[RecordingStatus]

    def to_dict(self) -> dict[str, Any]:
        """As plain data that JSON can hold: what isn't a number is `None`."""
        same = ("model_id", "data", "recordings", "threshold", "figures", "unknown")
        found = {name: getattr(self, name) for name in same}
        found["failed"] = [{"file": x.file, "status": x.status, "reason": x.reason} for x in self.failed]
        plain: dict[str, Any] = to_jsonable_python(found, inf_nan_mode="null")
        return plain


def evaluate_model(
    ensemble: Ensemble,
    catalog: Catalog,
    data: DataConfig,
    threshold: float = 0.25,
    allowed: Allowed | None = None,
    reporter: Reporter | None = None,
) -> ModelEvaluation:
    """Scores a data set's recordings, each whole, with all windows' mean and maximum as answers, and judges these.

    Args:
        ensemble: the model.
        catalog: the recordings and their labels, which are matched as `match_labels` does.
        data: how secondary labels count.
        threshold: from which score on a label counts as there.
        allowed: which labels may be in a recording; answers of these alone are judged too.
        reporter: gets progress, and a line for each recording with a problem.

    Raises:
        DataError: if tables have problems, the model knows no label, or no recording can be read.
    """
    reporter = reporter or Reporter()
    catalog.require_clean()
    truth = read_truth(catalog, data, ensemble.labels)
    failed: list[RecordingStatus] = []

    def on_scored(done: int, recording: RecordingStatus) -> None:
        if problem := describe_problem(recording):
            reporter.log(problem)
        if recording.failed:
            failed.append(recording)
        reporter.progress("Scoring recordings", done, len(truth.rows))

    paths = [str(catalog.recordings["path"][row]) for row in truth.rows]
    is_scored, answers = answer_recordings(ensemble, paths, truth, allowed, on_scored)
    if not is_scored.any():
        raise DataError(f"{catalog.root}: a recording must be readable. Received: none of {len(paths)}")
    targets = truth.targets[is_scored]
    figures = []
    for done, x in enumerate(answers):
        reporter.progress("Resampling recordings", done, len(answers))
        figures.append(_figures(x, targets, threshold))
    reporter.progress("Resampling recordings", 0, 0)
    labels = pd.concat([_label_table(x, truth, targets, ensemble.labels, threshold) for x in answers])
    rows = truth.rows[is_scored]
    predictions = pd.concat([_prediction_table(x, catalog, rows, ensemble.labels) for x in answers])
    about = ensemble.model_id, catalog.root, len(catalog), threshold
    return ModelEvaluation(*about, figures, labels, predictions, truth.unknown, failed)


def _figures(answers: Answers, targets: np.ndarray, threshold: float) -> AnswerFigures:
    scores, ranks = answers.scores, answers.ranks
    areas = label_aucs(targets, scores)
    return AnswerFigures(
        answers.name,
        len(targets),
        int(np.isfinite(areas).sum()),
        interval(mean_of(areas), macro_auc_draws(targets, scores)),
        mean_of(label_average_precisions(targets, scores)),
        float((ranks <= 1).mean()),
        float((ranks <= TOP).mean()),
        *precision_recall(targets, scores >= threshold),
    )


def _label_table(
    answers: Answers, truth: Truth, targets: np.ndarray, known: LabelSet, threshold: float
) -> pd.DataFrame:
    scores = answers.scores
    ranked = label_aucs(targets, scores), label_average_precisions(targets, scores)
    table = label_rows(truth.labels, targets, scores >= threshold, *ranked)
    table.insert(1, "model_label", [known[i] for i in truth.columns])
    return table.assign(answer=answers.name)


def _prediction_table(answers: Answers, catalog: Catalog, rows: np.ndarray, known: LabelSet) -> pd.DataFrame:
    recordings, paths = catalog.recordings.iloc[rows], catalog.relative_paths
    columns: dict[str, Any] = {
        "file": [paths[row] for row in rows],
        "label": list(recordings["label"]),
        "secondary": ["; ".join(x) for x in recordings["secondary"]],
        "answer": answers.name,
        "rank": pd.array(answers.ranks, "Int64"),
    }
    for k in range(TOP):
        columns[f"label_{k + 1}"] = [known[i] if i >= 0 else "" for i in answers.best[:, k]]
        columns[f"score_{k + 1}"] = answers.best_scores[:, k]
    return pd.DataFrame(columns)


def learned_from(models: Sequence[Path], catalog: Catalog) -> int:
    """How many of a data set's recordings have the path and label of one that a run's models were trained on.

    Args:
        models: their files, in the folders of folds. Of others nothing is known.
        catalog: the data set.

    Raises:
        DataError: if a run's split can't be read.
    """
    learned = _learned(models)
    return sum(x in learned for x in zip(catalog.relative_paths, catalog.recordings["label"], strict=True))


def learned_recordings(models: Sequence[Path], paths: Sequence[str]) -> int:
    """How many recordings, by their paths in a data set, have the path of one that a run's models were trained on.

    Args and errors are those of `learned_from`.
    """
    learned = {window[0] if (window := window_of(path)) else path for path, _ in _learned(models)}
    return sum(x in learned for x in paths)


def _learned(models: Sequence[Path]) -> set[tuple[str, str]]:
    """Path and label of what the models of a run's folds were trained on."""
    learned: set[tuple[str, str]] = set()
    for path in models:
        split, fold = path.parent.parent / SPLIT, fold_of(path.parent)
        if fold is not None and split.is_file():
            table = load_table(split, "a split", ("path", "label", "fold"))
            others = table[~table["fold"].isin([str(HIDDEN), str(fold)])]
            learned |= set(zip(others["path"], others["label"], strict=True))
    return learned


def write_model_report(evaluation: ModelEvaluation, out: Path) -> None:
    """Writes `report.json`, `labels.csv`, `predictions.csv` and `labels.png` into an existing folder."""
    write_json(out / JSON, evaluation.to_dict())
    write_table(evaluation.labels, out / LABELS)
    write_table(evaluation.predictions, out / PREDICTIONS)
    first = evaluation.figures[0].answer
    shown = evaluation.labels[evaluation.labels["answer"] == first]
    save_png(auc_against_count_figure(shown, f"ROC-AUC, {first} over windows"), out / FIGURE)
