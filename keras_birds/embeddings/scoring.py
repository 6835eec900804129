"""Scores from stored embeddings: a model's head instead of sound, with the same results as `score_recordings` gives."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np

from keras_birds.checksum import sha256_of
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.errors import AudioError, ConfigError, ModelError
from keras_birds.inference.plan import Plan
from keras_birds.inference.scorer import (
    DEFAULT_OPTIONS,
    PART_WINDOWS,
    RecordingScores,
    RecordingStatus,
    ScoreOptions,
)
from keras_birds.models.ensemble import Ensemble
from keras_birds.parallel import map_in_order
from keras_birds.threads import available_cpus


class StoredRecordings:
    """The recordings of a store, to be scored by a model's head.

    Args:
        store: of embeddings.
        ensemble: made of heads on the model that the store was made with, or that model itself.

    Raises:
        ModelError: if the store is of another model, or the model's head takes something else than embeddings.
        ConfigError: if Keras computes the model.
    """

    def __init__(self, store: EmbeddingStore, ensemble: Ensemble):
        self._store, self._ensemble = store, ensemble
        for engine in ensemble.engines:
            if store.model_sha256 not in (engine.metadata.backbone_sha256, sha256_of(engine.path)):
                raise ModelError(
                    f"{store.folder}: embeddings of {store.model_id} are scored by that model, or by a head that "
                    f"learned from its embeddings. Received: {engine.path}, {engine.metadata.model_id}. Pass its "
                    "--model, or score the sound"
                )
        # So that it is told at once if it can't.
        ensemble.score_embeddings(np.zeros((1, store.size), np.float32))
        self._status = {x.file: x for x in store.recordings}
        # As they lie on the disk; last those that failed.
        rows = {x: store.rows_of(x) for x in self._status}
        self.files = sorted(rows, key=lambda x: (not rows[x], rows[x].start))
        """Names of the recordings."""

    def fingerprint(self, file: str) -> tuple[int, int]:
        """Of a recording as it was when it was embedded."""
        return self._status[file].fingerprint

    def options(self, wanted: ScoreOptions) -> ScoreOptions:
        """How the store's recordings were cut; a `ConfigError` if something else than that or the default is wanted."""
        made = {x: self._store.settings[x] for x in ("overlap_s", "channel")}
        for name, value in made.items():
            if getattr(wanted, name) not in (value, getattr(DEFAULT_OPTIONS, name)):
                raise ConfigError(
                    f"--{name.removesuffix('_s')} must be as the embeddings were made, {value}. Received: "
                    f"{getattr(wanted, name)}; leave it out"
                )
        return replace(wanted, **made)

    def score(
        self,
        _: Ensemble,
        files: Iterable[str],
        options: ScoreOptions,
        on_scored: Callable[[float], None] = lambda _: None,
    ) -> Iterator[RecordingScores]:
        """As `score_recordings`, without any sound."""
        threads = options.workers or available_cpus()
        with closing(map_in_order(self._scores, [self._parts(files, options)], threads)) as scored:
            for _part, found in scored:
                if len(found.scores):
                    on_scored(float(found.end_s.max() - found.start_s.min()))
                yield found

    def _parts(
        self, files: Iterable[str], options: ScoreOptions
    ) -> Iterator[tuple[RecordingStatus, np.ndarray, bool]]:
        """Recordings with rows of theirs, and whether these are the last."""
        step = options.part_windows or PART_WINDOWS
        for file in files:
            status, rows = self._status[file], np.array(self._store.rows_of(file), np.int64)
            if options.plan is not None and not status.failed:
                status, rows = self._planned(status, rows, options.plan)
            for at in range(0, max(1, len(rows)), step):
                is_last = at + step >= len(rows)
                part = status if is_last else RecordingStatus(file, "ok", recorder=status.recorder)
                yield part, rows[at : at + step], is_last

    def _planned(
        self, status: RecordingStatus, rows: np.ndarray, plan: Plan
    ) -> tuple[RecordingStatus, np.ndarray]:
        """What becomes of a recording by a plan, and which of its rows are scored."""
        try:
            choice = plan.choice(status.file, status.recorder)
        except AudioError as error:
            return replace(status, status=error.status, reason=error.reason, windows=0), rows[:0]
        windows = self._store.windows(rows)
        start_s, end_s = (windows[x].to_numpy() for x in ("start_s", "end_s"))
        wanted = choice.wants(start_s, end_s)
        found = choice.outcome(start_s[wanted], end_s[wanted])
        return replace(status, **found, windows=int(wanted.sum())), rows[wanted]

    def _scores(self, part: tuple[RecordingStatus, np.ndarray, bool]) -> RecordingScores:
        status, numbers, is_last = part
        windows = self._store.windows(numbers)
        scores = np.zeros((0, len(self._ensemble.labels)), np.float32)
        if len(numbers):
            scores = self._ensemble.score_embeddings(self._store.vectors(numbers))
        start_s, end_s, channel = (windows[x].to_numpy() for x in ("start_s", "end_s", "channel"))
        return RecordingScores(status, start_s, end_s, channel, scores, is_last)
