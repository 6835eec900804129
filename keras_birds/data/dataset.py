"""Batches for `fit`: images and targets, augmented in threads, the same whatever the number of threads."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import keras
import numpy as np

from keras_birds.data.source import MelSource, require_usable
from keras_birds.errors import DataError

Batch = tuple[np.ndarray, np.ndarray]
Augment = Callable[..., Batch]
"""`augment(images, targets, seed)`, and where an epoch draws rows that a model labelled, `is_unlabelled` as well: bool
`[batch]`, which are such."""

# Streams of random numbers drawn from one (seed, epoch, index).
_ORDER, _CROP, _NEGATIVES, _UNLABELLED = 0, 1, 2, 3


@dataclass(frozen=True, eq=False)
class Epochs:
    """Which clips an epoch has, and in which order; raises `DataError` without rows, or negative ones if wanted."""

    rows: np.ndarray
    """Int `[m]`, the catalog rows to take."""
    seed: int = 42
    """Of the order, the crops and the augmentation."""
    shuffle: bool = False
    """Whether each epoch has an order of its own."""
    random_crop: bool = False
    """Whether crops lie anywhere in a recording instead of in its middle."""
    drop_remainder: bool = False
    """Whether an incomplete last batch is left out."""
    negative_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.intp))
    """Int, catalog rows of which each epoch takes some more, drawn anew."""
    negative_fraction: float = 0.0
    """Of an epoch's clips that are such rows."""
    unlabelled_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.intp))
    """Int, rows that a model labelled, of which each epoch takes some more, drawn anew."""
    unlabelled_fraction: float = 0.0
    """Of an epoch's clips that are such rows."""
    unlabelled_weights: np.ndarray | None = None
    """Float `[m]`, 0 or more: how often each is drawn beside the others; `None` for all alike."""

    def __post_init__(self) -> None:
        if not len(self.rows):
            raise DataError("a data set needs at least one usable recording. Received: none")
        if self.num_negatives and not len(self.negative_rows):
            raise DataError("negatives must have at least one usable recording. Received: none")
        if self.num_unlabelled and not len(self.unlabelled_rows):
            raise DataError("recordings without labels must have at least one usable window. Received: none")
        if self.unlabelled_weights is not None and not self.unlabelled_weights.any():
            rule = 'data.pseudo_sampling = "label_sum" must find windows with labels above 0. Received: none'
            raise DataError(f"{rule}; label again with a lower --floor, or draw all alike (even)")

    @property
    def num_negatives(self) -> int:
        """Of an epoch."""
        return self._number(self.negative_fraction)

    @property
    def num_unlabelled(self) -> int:
        """Of an epoch."""
        return self._number(self.unlabelled_fraction)

    def _number(self, fraction: float) -> int:
        return round(len(self.rows) * fraction / (1 - self.negative_fraction - self.unlabelled_fraction))

    def order(self, epoch: int) -> np.ndarray:
        """Int, the catalog rows of an epoch in its order."""
        negatives = _drawn(self.negative_rows, self.num_negatives, self._rng(_NEGATIVES, epoch))
        draws, count = self._rng(_UNLABELLED, epoch), self.num_unlabelled
        if self.unlabelled_weights is None:
            unlabelled = _drawn(self.unlabelled_rows, count, draws)
        else:
            unlabelled = _drawn_by(self.unlabelled_weights, self.unlabelled_rows, count, draws)
        rows = np.concatenate([np.asarray(self.rows, np.intp), negatives, unlabelled])
        return self._rng(_ORDER, epoch).permutation(rows) if self.shuffle else rows

    def positions(self, epoch: int, index: int, n: int) -> np.ndarray | None:
        """Where the `n` crops of a batch lie, float `[n]` from 0 to 1; `None` for the middle."""
        return self._rng(_CROP, epoch, index).random(n) if self.random_crop else None

    def _rng(self, stream: int, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence((self.seed % 2**64, *key), spawn_key=(stream,)))


def _drawn(rows: np.ndarray, count: int, draws: np.random.Generator) -> np.ndarray:
    """So many rows, each as often as any other, give or take one."""
    rounds = -(-count // max(1, len(rows)))
    drawn = [np.zeros(0, np.intp), *(draws.permutation(rows) for _ in range(rounds))]
    return np.concatenate(drawn)[:count].astype(np.intp)


def _drawn_by(weights: np.ndarray, rows: np.ndarray, count: int, draws: np.random.Generator) -> np.ndarray:
    """So many rows, each as often as its share of the weights says, give or take one (systematic sampling)."""
    order = draws.permutation(len(rows))
    ends = np.cumsum(weights[order], dtype=float)
    places = (draws.random() + np.arange(count)) * (ends[-1] / max(1, count))
    return rows[order[np.searchsorted(ends[:-1], places, side="right")]].astype(np.intp)


class MelDataset(keras.utils.PyDataset):
    """Batches of `(images, targets)`: float32 `[batch, height, width, 1]` and float32 `[batch, label]`.

    A batch is a function of (`seed`, `epoch`, index) alone: neither the number of threads nor the order in which
    batches are asked for changes it. `epoch` may be set, to go on where another run stopped.

    Call `fit` with `shuffle=False`: Keras would shuffle the batches once more, and nothing could be computed ahead.
    The threads are this class's own, `PyDataset.workers` stays 1: on the first `fit` Keras' enqueuer replays batches
    that it had fetched ahead while building the model.

    Args:
        source: gives images by catalog row.
        targets: float32 `[n, label]` for all `n` rows of the catalog, in 0 to 1, or -1 for those to ignore.
        epochs: which rows of the catalog make an epoch, and in which order.
        batch_size: clips in a batch.
        augment: `augment(images, targets, seed) -> (images, targets)`, safe to call from threads; see `Augment`.
        workers: threads that compute batches ahead; 0 computes each when it is asked for.

    Raises:
        DataError: if there is no full batch, a row that isn't usable, or another number of targets than the source's.
    """

    def __init__(
        self,
        source: MelSource,
        targets: np.ndarray,
        epochs: Epochs,
        batch_size: int,
        augment: Augment | None = None,
        workers: int = 1,
    ):
        super().__init__()
        if len(targets) != len(source):
            rule = f"targets must have a row for each of the source's {len(source)} recordings"
            raise DataError(f"{rule}. Received: {len(targets)}")
        used = epochs.rows, epochs.negative_rows, epochs.unlabelled_rows
        require_usable(source, np.concatenate(used).astype(np.intp))
        self.source, self.targets, self.epochs = source, np.asarray(targets, np.float32), epochs
        self.batch_size, self.augment = batch_size, augment
        self._is_unlabelled = np.zeros(len(source), bool)
        self._is_unlabelled[epochs.unlabelled_rows] = True
        self._pool = ThreadPoolExecutor(workers, "batch") if workers else None
        self._num_ahead = 2 * workers
        self._lock = threading.Lock()
        self._ahead: dict[int, Future[Batch]] = {}
        self._set_epoch(0)
        if not len(self):
            told = f"{len(epochs.rows)} recordings for batches of {batch_size}; lower training.batch_size"
            raise DataError(f"training needs at least one full batch. Received: {told}")

    def __len__(self) -> int:
        n = len(self._order)
        return n // self.batch_size if self.epochs.drop_remainder else -(-n // self.batch_size)

    @property
    def epoch(self) -> int:
        """The epoch whose batches are given out, from 0."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        with self._lock:
            self._set_epoch(epoch)

    def on_epoch_end(self) -> None:
        """Moves on to the next epoch, if every batch of this one was asked for.

        Keras also ends an "epoch" before the first, after a look at one batch; that one doesn't count.
        """
        with self._lock:
            if len(self._asked) == len(self):
                self._set_epoch(self._epoch + 1)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(f"a batch's index must be in 0 to {len(self) - 1}. Received: {index}")
        with self._lock:
            epoch, order = self._epoch, self._order
            self._asked.add(index)
            if self._pool is not None:
                wanted = range(index, min(index + 1 + self._num_ahead, len(self)))
                for gone in self._ahead.keys() - set(wanted):
                    self._ahead.pop(gone).cancel()
                for i in wanted:
                    if i not in self._ahead:
                        self._ahead[i] = self._pool.submit(self._compute, epoch, order, i)
                future = self._ahead.pop(index)
        return self._compute(epoch, order, index) if self._pool is None else future.result()

    def _set_epoch(self, epoch: int) -> None:
        for future in self._ahead.values():
            future.cancel()
        self._ahead, self._asked = {}, set[int]()
        self._epoch, self._order = epoch, self.epochs.order(epoch)

    def _compute(self, epoch: int, order: np.ndarray, index: int) -> Batch:
        rows = order[index * self.batch_size : (index + 1) * self.batch_size]
        positions = self.epochs.positions(epoch, index, len(rows))
        batch = self.source.images(rows, positions), self.targets[rows]
        seed = self.epochs.seed % 2**64, epoch, index
        if self.augment is None:
            return batch
        kinds = (self._is_unlabelled[rows],) if self.epochs.num_unlabelled else ()
        return self.augment(*batch, seed, *kinds)
