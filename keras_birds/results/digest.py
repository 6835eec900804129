"""What becomes of a recording's scores, which may come in parts: detections, sums, and what was left out."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_birds.audio.clips import united
from keras_birds.inference.scorer import RecordingScores, RecordingStatus
from keras_birds.labels import LabelSet
from keras_birds.results.detections import (
    DetectionRules,
    chosen,
    detection_table,
    merge,
    summary_table,
)
from keras_birds.results.voices import is_left_out, voice_columns

if TYPE_CHECKING:
    import pyarrow as pa

_WINDOWS_AT_ONCE = 256


class Digest:
    """Takes one recording's scores, all at once or in parts, in memory for one part.

    Whether a window is left out because of voices, and what `Context` makes of its scores, depend on windows around it:
    those at the end of a part wait for the next. The result is that of the whole recording, wherever it is parted.

    Args:
        recording: whose file and origin count.
        labels: of the model.
        rules: what of the scores becomes a detection.
        model_id: of the model.

    Attributes:
        presence: what may occur where and when it was made; `None` where that isn't asked for or no place is known.
        unlikely: scores, a label of a window each, that are no detections only because of where and when they are from.
        voices: windows that were left out because of voices.
        left_out_s: begin and end of the parts that these cover.
    """

    def __init__(self, recording: RecordingStatus, labels: LabelSet, rules: DetectionRules, model_id: str):
        self._recording, self._labels, self._rules, self._model_id = recording, labels, rules, model_id
        self.presence = rules.presence(recording.origin)
        allowed = True if self.presence is None else self.presence.allowed
        self._wanted = np.asarray(rules.species) & allowed
        self._unwanted = np.flatnonzero(np.asarray(rules.species) & ~self._wanted)
        self._held: RecordingScores | None = None
        self._done = 0  # of the held windows
        self._events: list[list[np.ndarray]] = []
        self._windows, self._counts = 0, np.zeros(len(labels), np.int64)
        self._best = np.full((2, len(labels)), -np.inf, np.float32)
        self.unlikely = self.voices = 0
        self.left_out_s: tuple[tuple[float, float], ...] = ()

    def add(self, part: RecordingScores) -> "Iterator[tuple[RecordingScores, pa.Table]]":
        """Takes a part.

        Yields:
            Windows that are done, with their scores as they came, without those that voices are in; and detections as
            `detection_table` gives them, by start, then channel, then score from the highest. With `merge` all
            detections come with the last windows.
        """
        found = part if self._held is None else _joined(self._held, part)
        first, end = self._done, len(found.start_s)
        begin, reach_s, context = 0, self._reach_s(found), self._rules.context
        waits = bool(reach_s) or context.changes
        if waits and not part.is_last and end:
            known_s = context.begin_of(found.start_s[-1] - reach_s)
            end = max(first, int(np.searchsorted(found.start_s, known_s)))
            next_s = found.start_s[min(end, len(found.start_s) - 1)]
            begin = int(np.searchsorted(found.start_s, next_s - reach_s))
        left_out = np.zeros(len(found.start_s), bool)
        if self._rules.no_voices is not None and len(left_out):
            left_out = is_left_out(found, voice_columns(self._labels), self._rules.no_voices)
        weighed = context.scores(found, np.flatnonzero(~left_out))
        begin = min(begin, end)
        for at in range(first, max(end, first + 1), _WINDOWS_AT_ONCE):
            rows = np.arange(at, min(end, at + _WINDOWS_AT_ONCE))
            self._leave_out(found, rows[left_out[rows]])
            kept = rows[~left_out[rows]]
            is_last = part.is_last and at + _WINDOWS_AT_ONCE >= end
            yield _rows(found, kept), self._detect(_rows(replace(found, scores=weighed), kept), is_last)
        if waits:
            self._held, self._done = _rows(found, slice(begin, None)), end - begin

    def _reach_s(self, found: RecordingScores) -> float:
        """How far before and after a window others matter to it."""
        if (self._rules.no_voices is None and self._rules.smooth_windows == 1) or not len(found.start_s):
            return 0.0
        starts = np.unique(found.start_s)
        window_s = float((found.end_s - found.start_s).max())
        hop_s = float(np.diff(starts).max()) if len(starts) > 1 else window_s
        return 2 * window_s + (self._rules.smooth_windows // 2 + 1) * hop_s

    def _leave_out(self, found: RecordingScores, rows: np.ndarray) -> None:
        self.voices += len(rows)
        spans = np.array([*self.left_out_s, *zip(found.start_s[rows], found.end_s[rows], strict=True)])
        self.left_out_s = united(*spans.reshape(-1, 2).T)

    def _detect(self, found: RecordingScores, is_last: bool) -> "pa.Table":
        """Counts, and finds the detections of windows whose scores are those of `Context`."""
        scores, rules = found.scores, self._rules
        is_chosen = chosen(scores, rules, self._wanted)
        window, label = np.nonzero(is_chosen)
        columns = [x[window] for x in (found.start_s, found.end_s, found.channel)]
        columns += [label, scores[window, label]]
        if len(scores):
            self._windows += len(scores)
            self._counts += is_chosen.sum(axis=0)
            self._best = -np.partition(-np.concatenate([self._best, scores]), 1, axis=0)[:2]
            least = np.asarray(rules.thresholds, np.float32)[self._unwanted]
            self.unlikely += int((scores[:, self._unwanted] >= least).sum())
        if rules.merge:  # an event may be as long as the recording
            self._events.append(columns)
            columns = [x[:0] for x in columns]
            if is_last:
                columns = merge([np.concatenate(x) for x in zip(*self._events, strict=True)])
        start_s, _, channel, label, score = columns
        order = np.lexsort((label, -score, channel, start_s))
        likely = None if self.presence is None else self.presence.probabilities[label[order]]
        columns = [x[order] for x in columns]
        return detection_table(self._recording, columns, likely, self._labels, self._model_id)

    def summary(self) -> "pa.Table":
        """Rows of `SUMMARY_COLUMNS`, the most probable label first.

        `mean_top2` is the mean of the two best windows, `windows` how many reached the threshold, after smoothing, over
        all channels.
        """
        best = self._best[: max(1, min(2, self._windows))]
        return summary_table(self._recording.file, self._labels, best, self._counts)


def _joined(first: RecordingScores, second: RecordingScores) -> RecordingScores:
    names = ("start_s", "end_s", "channel", "scores")
    both: dict[str, Any] = {x: np.concatenate([getattr(first, x), getattr(second, x)]) for x in names}
    return replace(second, **both)


def _rows(found: RecordingScores, rows: np.ndarray | slice) -> RecordingScores:
    arrays: dict[str, Any] = {x: getattr(found, x)[rows] for x in ("start_s", "end_s", "channel", "scores")}
    return replace(found, **arrays)
