"""How good a model, or a table of detections, is on recordings with annotations: by window and by event."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic_core import to_jsonable_python

from keras_birds.atomic import write_json
from keras_birds.data.annotations import Annotation, Annotations, covered, read_annotations
from keras_birds.data.names import match_labels
from keras_birds.data.tables import first_of, write_table
from keras_birds.errors import DataError
from keras_birds.evaluation.bootstrap import SAMPLES, Interval, interval, macro_auc_draws
from keras_birds.evaluation.events import EventFigures, EventRules, EventTally, thinned, together
from keras_birds.evaluation.metrics import label_average_precisions, label_rows, mean_of
from keras_birds.evaluation.report import JSON, LABELS
from keras_birds.inference.aggregate import rank_average
from keras_birds.inference.members import MemberScorer
from keras_birds.inference.scorer import (
    PART_WINDOWS,
    RecordingScores,
    RecordingStatus,
    ScoreOptions,
    WindowScorer,
    score_recordings,
)
from keras_birds.labels import Label, LabelSet
from keras_birds.models.ensemble import Ensemble
from keras_birds.nn.metrics import label_aucs
from keras_birds.plots.figure import save_png
from keras_birds.plots.precision_recall import precision_recall_figure
from keras_birds.progress import Reporter
from keras_birds.results.context import NO_CONTEXT, Context
from keras_birds.results.report import describe_problem
from keras_birds.results.results import read_detections

CURVES, FIGURE = "precision-recall.csv", "precision-recall.png"

_MOST_DRAWS = 50_000_000  # counts of resampled windows in memory at once: 100 MB


@dataclass(frozen=True, eq=False)
class AnnotatedEvaluation:
    """What was found out on annotated recordings.

    Args:
        judged: the model, or the table of detections.
        annotations: where they were read.
        recordings: annotated ones that were judged.
        rules: what counts.
        windows: of the recordings, 0 for detections, of whose windows nothing is known. The next two are of these.
        macro_auc: mean over labels with a positive and a negative, with its interval over recordings.
        cmap: mean of the labels' average precisions.
        events: of all labels together.
        labels: a row a label.
        curves: label, threshold, precision and recall by event.
        unknown: how many annotations have each label that the model doesn't know; they are left out. Of detections
            there are none: labels that were never detected were missed.
        failed: of annotated recordings that can't be read or have no detections' table; they are left out.
    """

    judged: str
    annotations: Path
    recordings: int
    rules: EventRules
    windows: int
    macro_auc: Interval
    cmap: float
    events: EventFigures
    labels: pd.DataFrame
    curves: pd.DataFrame
    unknown: dict[str, int]
    failed: Sequence[RecordingStatus]

    def to_dict(self) -> dict[str, Any]:
        """As plain data that JSON can hold: what isn't a number is `None`."""
        others = ("labels", "curves", "failed")
        found = {name: value for name, value in vars(self).items() if name not in others}
        found["failed"] = [{"file": x.file, "status": x.status, "reason": x.reason} for x in self.failed]
        plain: dict[str, Any] = to_jsonable_python(found, inf_nan_mode="null")
        return plain


@dataclass(frozen=True, eq=False)
class Truth:
    """Annotations for a model's labels: `columns` are those of the labels that are judged."""

    labels: LabelSet
    columns: np.ndarray
    by_file: dict[str, list[Annotation]]
    unknown: dict[str, int]

    @classmethod
    def of(cls, found: Annotations, known: LabelSet) -> "Truth":
        """Raises `DataError` if annotations and model have no label in common."""
        places = dict(zip(found.labels, match_labels(found.labels, known).tolist(), strict=True))
        unknown = dict(sorted(Counter(x.label for x in found.rows if places[x.label] < 0).items()))
        columns = np.array(sorted({x for x in places.values() if x >= 0}), int)
        if not len(columns):
            raise DataError(
                f"a label of the annotations must be known. Received: {first_of(list(unknown)) or 'none'}, by no name "
                f"among {len(known)}, such as {first_of(known.names)}. Scientific or common names match best"
            )
        members = {k: [x for x in found.labels.items if places[x.name] == k] for k in columns.tolist()}
        names = {k: " + ".join(x.name for x in items) for k, items in members.items()}
        labels = LabelSet(replace(known.items[k], name=name) for k, name in names.items())
        by_file: dict[str, list[Annotation]] = {x: [] for x in found.recordings}
        for x in found.rows:
            if places[x.label] >= 0:
                by_file[x.file].append(replace(x, label=names[places[x.label]]))
        return cls(labels, columns, by_file, unknown)


def evaluate_scores(
    ensemble: Ensemble,
    found: Annotations,
    source: Path,
    rules: EventRules,
    reporter: Reporter | None = None,
    context: Context = NO_CONTEXT,
    by_rank: bool = False,
) -> AnnotatedEvaluation:
    """Scores annotated recordings, and judges each window and each detection.

    Args:
        ensemble: the model.
        found: annotations; their labels are matched with the model's as `match_labels` does.
        source: where they were read.
        rules: what counts.
        reporter: gets progress, and a line for each recording with a problem.
        context: what becomes of a recording's scores by those of other windows.
        by_rank: whether members are averaged as `rank_average` does.

    Raises:
        DataError: if annotations have problems, the model knows none of their labels, or no recording can be read.
    """
    reporter = reporter or Reporter()
    found.require_clean()
    truth = Truth.of(found, ensemble.labels)
    scored, failed = [], []
    for done, x in enumerate(_scored(ensemble, list(truth.by_file), truth.columns, by_rank), 1):
        if problem := describe_problem(x.recording):
            reporter.log(problem)
        reporter.progress("Scoring recordings", done, len(truth.by_file))
        if x.recording.failed:
            failed.append(x.recording)
        else:
            scored.append(x)
    reporter.progress("Scoring recordings", 0, 0)
    if not scored:
        raise DataError(f"an annotated recording must be readable. Received: none of {len(truth.by_file)}")
    if by_rank:
        scored = _rank_averaged(scored, len(ensemble.engines))
    tallies = [EventTally(rules) for _ in truth.labels]
    targets: list[np.ndarray] = []
    scores: list[np.ndarray] = []
    for x in scored:
        rows = truth.by_file[x.recording.file]
        targets.append(covered(rows, x.start_s, x.end_s, truth.labels, rules.share))
        scores.append(context.scores(x))
        for k, label in enumerate(truth.labels):
            tallies[k].add(x.start_s, x.end_s, scores[-1][:, k], [y for y in rows if y.label == label])
    recordings = np.repeat(np.arange(len(scores)), [len(x) for x in scores])
    windows = np.concatenate(targets), np.concatenate(scores), recordings
    table, figures = _window_figures(*windows, truth.labels, rules.threshold)
    return _evaluation(
        ensemble.model_id, source, rules, truth, tallies, failed, (len(windows[0]), *figures), table
    )


def _scored(
    ensemble: Ensemble, files: Sequence[str], columns: np.ndarray, of_members: bool
) -> Iterator[RecordingScores]:
    """Recordings with scores `[window, column]` of all windows, or `[window, member x column]`; more fill memory."""
    scorer: WindowScorer = MemberScorer(ensemble) if of_members else ensemble
    if of_members:
        first = len(ensemble.labels) * np.arange(len(ensemble.engines))
        columns = (first[:, None] + columns).ravel()
    parts: list[tuple[np.ndarray, ...]] = []
    for x in score_recordings(scorer, files, ScoreOptions(part_windows=PART_WINDOWS)):
        parts.append((x.start_s, x.end_s, x.channel, x.scores[:, columns]))
        if x.is_last:
            start_s, end_s, channel, scores = map(np.concatenate, zip(*parts, strict=True))
            yield RecordingScores(x.recording, start_s, end_s, channel, scores)
            parts = []


def _rank_averaged(scored: Sequence[RecordingScores], count: int) -> list[RecordingScores]:
    """With the rank average of so many members in place of their scores."""
    every = np.concatenate([x.scores for x in scored])
    found = rank_average(every.reshape(len(every), count, -1))
    ends = np.cumsum([len(x.scores) for x in scored])[:-1]
    return [replace(x, scores=part) for x, part in zip(scored, np.split(found, ends), strict=True)]


def _window_figures(
    targets: np.ndarray,
    scores: np.ndarray,
    recordings: np.ndarray,
    labels: LabelSet,
    threshold: float,
) -> tuple[pd.DataFrame, tuple[Interval, float]]:
    areas, precisions = label_aucs(targets, scores), label_average_precisions(targets, scores)
    table = label_rows(labels, targets, scores >= threshold, areas, precisions)
    table = table.rename(columns={"positives": "windows"})
    draws = macro_auc_draws(
        targets, scores, max(20, min(SAMPLES, _MOST_DRAWS // len(targets))), recordings=recordings
    )
    return table, (interval(mean_of(areas), draws), mean_of(precisions))


def evaluate_detections(
    detections: Path, annotations: Path, recordings: Sequence[str] | None, rules: EventRules
) -> AnnotatedEvaluation:
    """Judges a folder of results, or tables of detections in any format that annotations may have.

    Args:
        detections: of a folder that `detect` wrote, or a table or folder of tables.
        annotations: as `read_annotations`.
        recordings: that tables may mean; `None` for those of a folder of results.
        rules: what counts.

    Raises:
        DataError: if tables have problems, or have no recording in common.
    """
    seconds: dict[str, float] = {}
    if recordings is None:
        labels, by_file, seconds = _read_results(detections)
    else:
        labels, by_file = _read_tables(detections, recordings)
    found = read_annotations(
        annotations, list(by_file) if recordings is None else recordings, seconds=seconds
    )
    found.require_clean()
    # What was never detected was missed.
    absent = [
        x
        for x, place in zip(found.labels.items, match_labels(found.labels, labels), strict=True)
        if place < 0
    ]
    labels = LabelSet([*labels.items, *absent])
    truth = Truth.of(found, labels)
    tallies, failed = [EventTally(rules) for _ in truth.labels], []
    for file, rows in truth.by_file.items():
        table = by_file.get(file)
        if table is None:
            failed.append(RecordingStatus(file, "missing", "has no table of detections"))
            continue
        for k, (label, column) in enumerate(zip(truth.labels, truth.columns, strict=True)):
            part = table[table["label"] == labels[column]]
            start_s, end_s, scores = (part[x].to_numpy(float) for x in ("start_s", "end_s", "score"))
            tallies[k].add(start_s, end_s, scores, [x for x in rows if x.label == label])
    if len(failed) == len(truth.by_file):
        raise DataError(f"{detections}: must have detections of an annotated recording. Received: of none")
    nothing = 0, Interval(math.nan, math.nan, math.nan), math.nan
    names = pd.DataFrame(list(truth.labels.items)).rename(columns={"name": "label"})
    return _evaluation(str(detections), annotations, rules, truth, tallies, failed, nothing, names)


def _read_results(folder: Path) -> tuple[LabelSet, dict[str, pd.DataFrame], dict[str, float]]:
    """Of a folder that `detect` wrote: labels, detections and length in seconds by recording.

    Recordings without detections have no rows.
    """
    columns = ["start_s", "end_s", "label", "score"]
    labels: dict[str, Label] = {}
    by_file, seconds = {}, {}
    for recording, batches in read_detections(folder):
        if recording.chosen_s is not None:
            raise DataError(
                "detections must be of whole recordings, as what is passed over would count as missed. Received: "
                f"{folder}, of --when or --sample. Run `keras-birds detect` without them"
            )
        rows = [x for batch in batches for x in batch.to_pylist()]
        for x in rows:
            labels.setdefault(x["label"], Label(x["label"], x["scientific_name"], x["common_name"]))
        # `max` keeps the first where the other is NaN.
        seconds[recording.file] = max(recording.seconds, recording.seconds_expected)
        by_file[recording.file] = pd.DataFrame([[x[c] for c in columns] for x in rows], columns=columns)
    return LabelSet(labels[x] for x in sorted(labels)), by_file, seconds


def _read_tables(path: Path, recordings: Sequence[str]) -> tuple[LabelSet, dict[str, pd.DataFrame]]:
    """As `_read_results`, of tables. A table of all recordings has no rows of those without detections."""
    found = read_annotations(path, recordings)
    found.require_clean()
    columns = ["start_s", "end_s", "label", "score"]
    rows: dict[str, list[list[object]]] = {x: [] for x in recordings}
    for x in found.rows:
        rows[x.file].append([x.start_s, x.end_s, x.label, 1.0 if math.isnan(x.score) else x.score])
    return found.labels, {file: pd.DataFrame(x, columns=columns) for file, x in rows.items()}


def _evaluation(
    judged: str,
    source: Path,
    rules: EventRules,
    truth: Truth,
    tallies: Sequence[EventTally],
    failed: Sequence[RecordingStatus],
    windows: tuple[int, Interval, float],
    table: pd.DataFrame,
) -> AnnotatedEvaluation:
    rows = pd.DataFrame([vars(x.figures()) for x in tallies]).add_prefix("event_")
    labels = pd.concat([table, rows.rename(columns={"event_annotations": "annotations"})], axis=1)
    labels = labels.rename(columns={"event_events": "events", "event_matched": "matched"})
    curves = [thinned(x.curve()).assign(label=y) for x, y in zip(tallies, truth.labels, strict=True)]
    counts = len(truth.by_file) - len(failed)
    columns = ["label", "threshold", "precision", "recall"]
    return AnnotatedEvaluation(
        judged,
        source,
        counts,
        rules,
        *windows,
        together(tallies),
        labels,
        pd.concat(curves)[columns],
        truth.unknown,
        failed,
    )


def write_annotated_report(evaluation: AnnotatedEvaluation, out: Path) -> None:
    """Writes `report.json`, `labels.csv`, `precision-recall.csv` and `.png` into an existing folder."""
    write_json(out / JSON, evaluation.to_dict())
    write_table(evaluation.labels, out / LABELS)
    write_table(evaluation.curves, out / CURVES)
    areas = evaluation.labels.set_index("label")["event_average_precision"]
    save_png(precision_recall_figure(evaluation.curves, areas, evaluation.rules.threshold), out / FIGURE)
