"""Embeddings of a data set's recordings by a frozen backbone: computed once and kept, window by window."""

import hashlib
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import platformdirs

from keras_birds.atomic import atomic_path
from keras_birds.audio.remote import file_fingerprint
from keras_birds.config import AudioConfig
from keras_birds.data.dataset import Batch
from keras_birds.data.source import MelSource, require_usable, usable_of
from keras_birds.errors import DataError
from keras_birds.inference.embedder import Embedder
from keras_birds.inference.scorer import ScoreOptions, score_recordings
from keras_birds.models.calibration import sigmoid
from keras_birds.models.engines import OnnxEngine
from keras_birds.models.ensemble import Ensemble
from keras_birds.nn.augment import Augment
from keras_birds.nn.metrics import macro_auc
from keras_birds.progress import Reporter
from keras_birds.training.callbacks import MONITOR

_LEAST = 1e-7
_SAVE_EVERY_S = 60.0
_SAVING_SHARE = 0.05  # of the time, at most: what is kept is written as a whole
_ALIKE = 0.01  # of its length, at most, that an embedding of silence is off by float16


@dataclass(frozen=True)
class _Kept:
    """What is known of one recording: as it was read, what became of it, and its windows `[window, size]`."""

    stamp: tuple[int, int]
    status: str
    reason: str
    windows: np.ndarray


class WindowEmbeddings:
    """Embeddings of windows, one or several a row, as `MelSource` gives images.

    Args:
        windows: `[window, size]` of each row.

    Attributes:
        silence: float32 `[size]`, the embedding of a window of digital silence; `None` where it isn't known.
    """

    silence: np.ndarray | None = None

    def __init__(self, windows: Sequence[np.ndarray]):
        self._windows = windows
        self.usable = np.array([len(x) > 0 for x in windows], bool)
        self.reasons = ["" if len(x) else "has no embeddings" for x in windows]

    def __len__(self) -> int:
        return len(self._windows)

    @property
    def size(self) -> int:
        """Numbers of an embedding."""
        return int(self._windows[0].shape[1])

    def images(self, rows: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """An embedding of each row, float32 `[b, size]`: of its middle window, or of one by position."""
        require_usable(self, rows)
        where = np.full(len(rows), 0.5) if positions is None else positions
        windows = [self._windows[row] for row in rows]
        chosen = [x[min(int(at * len(x)), len(x) - 1)] for x, at in zip(windows, where, strict=True)]
        return np.stack(chosen).astype(np.float32)

    def windows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All windows' embeddings of some rows, float32 `[window, size]`, and how many each has, int `[b]`."""
        require_usable(self, rows)
        found = [self._windows[row] for row in rows]
        return np.concatenate(found).astype(np.float32), np.array([len(x) for x in found])


class EmbeddingSource(WindowEmbeddings):
    """Embeddings of recordings' windows, as `MelSource` gives images; computed once and kept in the user's cache.

    A recording whose size or modification time changed is computed anew, and so is all for another model. Embeddings
    are kept as float16, within 1e-3 of what was computed.

    Args:
        model: `model.onnx` of the frozen backbone.
        audio: how recordings are cut.
        paths: the recordings, in the catalog's order.
        reporter: gets the progress; `None` says that all must be there, as in another process of the same run.
        windows: which of its recording's windows each row is, int `[n]`, where rows aren't whole recordings.
        overlap_s: of windows that follow each other.

    Attributes:
        manifest: path, status and reason of each recording.
        silence: float32 `[size]`, the embedding of a window of digital silence.

    Raises:
        ModelError: if the model gives no embeddings.
        DataError: without a reporter, if embeddings are missing.
    """

    def __init__(
        self,
        model: Path,
        audio: AudioConfig,
        paths: Sequence[str],
        reporter: Reporter | None,
        windows: np.ndarray | None = None,
        overlap_s: float = 0.0,
    ):
        self._options = ScoreOptions(overlap_s=overlap_s)
        self._paths = [str(Path(x).resolve()) for x in paths]
        digest = hashlib.sha256(model.read_bytes())
        # One file a data set, so that none grows without end.
        overlap = f" {overlap_s:g}" if overlap_s else ""
        # What older files don't name is at its default there.
        changed = audio.model_dump(include={"speed", "f_low_hz", "f_high_hz"}, exclude_defaults=True)
        digest.update("".join(f"{x} {y:g} " for x, y in changed.items()).encode())
        digest.update(f"{audio.fill} {audio.decoder}{overlap} {Path(self._paths[0]).parent.parent}".encode())
        self._file = platformdirs.user_cache_path("keras-birds") / "embeddings" / f"{digest.hexdigest()}.npz"
        kept, silence = _read(self._file)
        todo = [
            x for x in dict.fromkeys(self._paths) if x not in kept or kept[x].stamp != file_fingerprint(x)
        ]
        if todo and reporter is None:
            raise DataError(
                f"{self._file} must hold the embeddings of all recordings. Received: none of {todo[0]}; run "
                "`keras-birds train` on this machine first"
            )
        if todo and reporter is not None:
            silence = self._compute(open_embedder(model, audio), todo, kept, reporter)
        found = [kept[x] for x in self._paths]
        self.manifest = pd.DataFrame(
            {"path": list(paths), "status": [x.status for x in found], "reason": [x.reason for x in found]}
        )
        self.usable, self.reasons = usable_of(self.manifest)
        self._windows: Sequence[np.ndarray] = [x.windows for x in found]
        self.silence = silence.astype(np.float32)
        if windows is not None:
            self._windows = [x[k : k + 1] for x, k in zip(self._windows, windows, strict=True)]
            self.usable = self.usable.copy()
            for row in [row for row, x in enumerate(self._windows) if self.usable[row] and not len(x)]:
                self.usable[row], self.reasons[row] = False, "lies after the recording's end"

    def _compute(
        self, embedder: Embedder, todo: list[str], kept: dict[str, _Kept], reporter: Reporter
    ) -> np.ndarray:
        silence = embedder.score_clips(np.zeros((1, embedder.audio.clip_samples), np.float32))[0]
        save_at = time.monotonic() + _SAVE_EVERY_S
        try:
            for done, scored in enumerate(score_recordings(embedder, todo, self._options), 1):
                status = scored.recording
                kept[todo[done - 1]] = _Kept(
                    status.fingerprint, status.status, status.reason, scored.scores.astype(np.float16)
                )
                reporter.progress("Embedding recordings", done, len(todo))
                if (begun := time.monotonic()) > save_at:
                    _write(self._file, kept, silence)
                    ended = time.monotonic()
                    save_at = ended + max(_SAVE_EVERY_S, (ended - begun) / _SAVING_SHARE)
        finally:
            reporter.progress("Embedding recordings", 0, 0)
            if kept:
                _write(self._file, kept, silence)
        return silence


def open_embedder(path: Path, audio: AudioConfig) -> Embedder:
    """A frozen backbone's `model.onnx`, on the CPU; a `ModelError` if it can't be loaded or gives no embeddings."""
    return Embedder(Ensemble([OnnxEngine(path, "cpu")]), audio)


def mean_probabilities(model: keras.Model, source: WindowEmbeddings, rows: np.ndarray) -> np.ndarray:
    """A head's probabilities of recordings, float32 `[b, label]`: the mean over windows, as `predict` gives."""
    windows, counts = source.windows(rows)
    found = sigmoid(model.predict(windows, batch_size=256, verbose=0))
    return np.add.reduceat(found, np.cumsum(counts) - counts, axis=0) / counts[:, None].astype(np.float32)


class ValidateRecordings(keras.callbacks.Callback):
    """Measures a head on whole recordings after each epoch, as the run is measured in the end.

    Args:
        source, rows: the recordings.
        targets: float32 `[recording, label]` of them.
    """

    def __init__(self, source: WindowEmbeddings, rows: np.ndarray, targets: np.ndarray):
        super().__init__()
        self.source, self.rows, self.targets = source, rows, targets

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds what `fit` would with `validation_data`, for the callbacks after this one."""
        if logs is not None:
            scores = mean_probabilities(self.model, self.source, self.rows)
            logits = np.log(np.maximum(scores, _LEAST)) - np.log(np.maximum(1 - scores, _LEAST))
            logs["val_loss"] = float(self.model.loss(self.targets, logits))
            logs[MONITOR] = macro_auc(self.targets, scores)


class EmbeddedSource:
    """A source of sound as one of embeddings, computed at every call."""

    def __init__(self, source: MelSource, embedder: Embedder):
        self.source, self.embedder = source, embedder
        self.usable, self.reasons = source.usable, source.reasons

    def __len__(self) -> int:
        return len(self.source)

    def images(self, rows: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """Embeddings of some recordings, float32 `[b, size]`, as `MelSource.images`."""
        return self.embedder.score_clips(self.source.images(rows, positions))


def unlabel_silence(augment: Augment, silence: np.ndarray) -> Augment:
    """Takes the labels from windows of digital silence before they are augmented.

    Many clips end in zeros: nothing is heard there, and a head that learnt to name it would tell clips by their length.
    """

    def augment_heard(embeddings: np.ndarray, targets: np.ndarray, seed: int | Sequence[int]) -> Batch:
        distances = np.linalg.norm(embeddings - silence, axis=1)
        is_silent = distances <= _ALIKE * np.linalg.norm(silence)
        return augment(embeddings, np.where(is_silent[:, None], np.float32(0), targets), seed)

    return augment_heard


def _read(path: Path) -> tuple[dict[str, _Kept], np.ndarray]:
    nothing: tuple[dict[str, _Kept], np.ndarray] = {}, np.zeros(0)
    if not path.is_file():
        return nothing
    try:
        with np.load(path) as data:
            columns = [data[x] for x in ("path", "size_bytes", "mtime_ns", "status", "reason", "count")]
            parts, silence = np.split(data["windows"], np.cumsum(columns[-1])[:-1]), data["silence"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return nothing  # a cache: what can't be read is computed again
    rows = zip(*columns[:-1], parts, strict=True)
    return {str(p): _Kept((int(n), int(t)), str(s), str(r), x) for p, n, t, s, r, x in rows}, silence


def _write(path: Path, kept: dict[str, _Kept], silence: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stamps = np.array([x.stamp for x in kept.values()], np.int64).reshape(-1, 2)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            path=np.array(list(kept)),
            size_bytes=stamps[:, 0],
            mtime_ns=stamps[:, 1],
            status=np.array([x.status for x in kept.values()]),
            reason=np.array([x.reason for x in kept.values()]),
            count=np.array([len(x.windows) for x in kept.values()]),
            windows=np.concatenate([x.windows for x in kept.values()]),
            silence=silence,
        )
