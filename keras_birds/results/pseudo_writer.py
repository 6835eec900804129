"""A folder of pseudo labels as it is written: the sink of `keras-birds pseudo`, and labels from the scores it keeps."""

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from keras_birds.audio.clips import window_hop_samples
from keras_birds.checksum import sha256_of
from keras_birds.inference.scorer import RecordingScores
from keras_birds.models.ensemble import Ensemble
from keras_birds.results.arrays import ArraySink, array_kinds, current_runs, open_array, read_columns
from keras_birds.results.pseudo import PSEUDO, LabelRules, LabelTables, Teacher
from keras_birds.run_layout import SPLIT, fold_of

_SCORES = "scores"
_BLOCK_NUMBERS = 1 << 23  # 32 MB as float32


class PseudoWriter(ArraySink):
    """An open folder: takes recordings with what each model scored (`MemberScorer`), then makes labels of all.

    ```python
    with PseudoWriter(folder, classifier, options.overlap_s) as sink:
        for scored in score_recordings(MemberScorer(classifier), sink.to_do(files), options):
            sink.add(scored)
        sink.finish()
        about = sink.write_labels(rules)
    ```

    Args:
        folder: new, empty, or one to go on with.
        ensemble: the models.
        overlap_s: of windows.

    Raises:
        ConfigError: if the overlap can't be used, or the folder belongs to other models or settings, or holds something
            else.
        KerasBirdsError: if it can't be written.
    """

    contents, array, kinds = PSEUDO, _SCORES, array_kinds(_SCORES)

    def __init__(self, folder: Path, ensemble: Ensemble, overlap_s: float):
        window_hop_samples(ensemble.audio, overlap_s)  # before a folder is made
        self._labels, self._overlap_s = ensemble.labels, overlap_s
        self._members = len(ensemble.engines)
        self.teacher = teacher_of(ensemble)
        """The models."""
        width = self._members * len(ensemble.labels)
        super().__init__(folder, _settings(ensemble, overlap_s, self.teacher), width)

    def _numbers(self, part: RecordingScores) -> np.ndarray:
        return part.scores.astype(np.float16)

    def write_labels(self, rules: LabelRules) -> dict[str, Any]:
        """Makes labels of every score that counts and replaces the tables, in the order of paths and then of time.

        Returns:
            What `pseudo.json` holds.

        Raises:
            DataError: if the rules leave no window, or a shard is damaged or gone.
        """
        tables = LabelTables(self.folder, self._labels, self.teacher, rules)
        try:
            for files, start_s, end_s, scores in self._blocks():
                tables.add(files, start_s, end_s, scores)
            return tables.finish(self._overlap_s)
        finally:
            tables.discard()

    def _blocks(self) -> Iterator[tuple[list[str], np.ndarray, np.ndarray, np.ndarray]]:
        """Files, starts, ends and scores `[window, member, label]` of many windows at a time."""
        command = self.contents.command
        open_scores = lru_cache(64)(partial(open_array, self.folder, _SCORES, command=command))
        columns = lru_cache(256)(
            partial(read_columns, self.folder, names=("start_s", "end_s"), command=command)
        )
        most = max(1, _BLOCK_NUMBERS // self._width)
        files: list[str] = []
        spans: list[np.ndarray] = []
        scores: list[np.ndarray] = []

        def block() -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
            start_s, end_s = np.concatenate(spans, axis=1)
            found = np.concatenate(scores).astype(np.float32)
            return files, start_s, end_s, found.reshape(len(files), self._members, -1)

        for entry, run in sorted(current_runs(self._journal), key=lambda x: x[0].recording.file):
            for at in range(run.offset, run.offset + run.count, most):
                part = slice(at, min(at + most, run.offset + run.count))
                table = columns(run.shard)
                files += [entry.recording.file] * (part.stop - part.start)
                spans.append(np.stack([table[x].to_numpy()[part] for x in ("start_s", "end_s")]))
                scores.append(open_scores(run.shard)[part])
                if len(files) >= most:
                    yield block()
                    files, spans, scores = [], [], []
        if files:
            yield block()


def teacher_of(ensemble: Ensemble) -> Teacher:
    """Who the models are, and the run that they are of: that whose folders they lie in, if it knows its split."""
    folders = [x.path.resolve().parent for x in ensemble.engines]
    folds = [fold_of(x) for x in folders]
    run = folders[0].parent
    is_run = None not in folds and {x.parent for x in folders} == {run} and (run / SPLIT).is_file()
    numbers = tuple(x for x in folds if isinstance(x, int)) if is_run else ()
    ids = tuple(x.metadata.model_id for x in ensemble.engines)
    return Teacher(ids, numbers, run if is_run else None)


def _settings(ensemble: Ensemble, overlap_s: float, teacher: Teacher) -> dict[str, Any]:
    """All that the scores depend on, as plain data."""
    audio = ensemble.audio.model_dump(mode="json")
    return {
        "models": list(teacher.model_ids),
        "models_sha256": [sha256_of(x.path) for x in ensemble.engines],
        "decoder": audio.pop("decoder"),
        "overlap_s": overlap_s,
        "paths": [str(x.path.resolve()) for x in ensemble.engines],
        "audio": audio,
        "labels": list(ensemble.labels),
    }
