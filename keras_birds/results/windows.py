"""Every window's scores as a submission has them: averaged by rank where asked for, and weighed in their context."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from keras_birds.inference.aggregate import rank_average
from keras_birds.inference.scorer import RecordingScores, RecordingStatus
from keras_birds.labels import LabelSet
from keras_birds.results.results import Results

if TYPE_CHECKING:
    import pyarrow as pa


def final_windows(
    results: Results, labels: LabelSet
) -> "Iterator[tuple[RecordingStatus, Iterable[pa.RecordBatch]]]":
    """Scored recordings with columns start_s, end_s and the labels of all their windows.

    A recording is in memory at a time; of an average by rank all are.
    """
    context = results.rules.context
    if not (results.members or context.changes):
        yield from results.read("scores")
        return
    for found in _rank_averaged(results) if results.members else _read(results, "scores"):
        yield found.recording, _table(found, context.scores(found), labels).to_batches()


def _read(results: Results, kind: str) -> Iterator[RecordingScores]:
    for recording, batches in results.read(kind):
        if found := list(batches):
            names = found[0].schema.names[1:]
            channel, start_s, end_s, *scores = (
                np.concatenate([x[name].to_numpy() for x in found]) for name in names
            )
            yield RecordingScores(
                recording, start_s, end_s, channel, np.stack(scores, axis=1).astype(np.float32)
            )


def _rank_averaged(results: Results) -> Iterator[RecordingScores]:
    every = list(_read(results, "members"))
    if not every:
        return
    scores = np.concatenate([x.scores for x in every])
    found = rank_average(scores.reshape(len(scores), results.members, -1))
    at = 0
    for x in every:
        end = at + len(x.scores)
        yield RecordingScores(x.recording, x.start_s, x.end_s, x.channel, found[at:end])
        at = end


def _table(found: RecordingScores, scores: np.ndarray, labels: LabelSet) -> "pa.Table":
    import pyarrow as pa

    return pa.table([found.start_s, found.end_s, *scores.T.copy()], ["start_s", "end_s", *labels])
