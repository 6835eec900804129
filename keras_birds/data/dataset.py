"""Batches for `fit`: images and targets, augmented in threads, the same whatever the number of threads."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import keras
import numpy as np

from keras_birds.data.source import MelSource, require_usable
from keras_birds.errors import DataError

Batch = tuple[np.ndarray, np.ndarray]
Augment = Callable[[np.ndarray, np.ndarray, Sequence[int]], Batch]

# Streams of random numbers drawn from one (seed, epoch, index).
_ORDER, _CROP, _NEGATIVES = 0, 1, 2


class MelDataset(keras.utils.PyDataset):
    """Batches of `(images, targets)`: float32 `[batch, height, width, 1]` and float32 `[batch, label]`.

    A batch is a function of (`seed`, `epoch`, index) alone: neither the number of threads nor the order in which
    batches are asked for changes it. `epoch` may be set, to go on where another run stopped.

    Call `fit` with `shuffle=False`: Keras would shuffle the batches once more, by Python's global random numbers,
    and nothing could be computed ahead. The threads are this class's own, `PyDataset.workers` stays 1: on the
    first `fit` Keras' enqueuer replays batches that it had fetched ahead while building the model.

    Args:
        source: gives images by catalog row.
        targets: float32 `[n, label]` for all `n` rows of the catalog, in 0 to 1, or -1 for those to ignore.
        rows: int `[m]`, the catalog rows to take batches from.
        batch_size: clips in a batch.
        seed: of the order, the crops and the augmentation.
        shuffle: whether each epoch has an order of its own.
        augment: `augment(images, targets, seed) -> (images, targets)`, safe to call from threads.
        random_crop: whether crops lie anywhere in a recording instead of in its middle.
        drop_remainder: whether an incomplete last batch is left out.
        workers: threads that compute batches ahead; 0 computes each when it is asked for.
        negative_rows: int, catalog rows of which each epoch takes some more, drawn anew.
        negative_fraction: of an epoch's clips that are such rows.

    Raises:
        DataError: if there is no row, no full batch with `drop_remainder`, a row that isn't usable, or a number of
            targets other than the source's.
    """

    def __init__(
        self,
        source: MelSource,
        targets: np.ndarray,
        rows: np.ndarray,
        batch_size: int,
        seed: int = 42,
        shuffle: bool = False,
        augment: Augment | None = None,
        random_crop: bool = False,
        drop_remainder: bool = False,
        workers: int = 1,
        negative_rows: np.ndarray | None = None,
        negative_fraction: float = 0.0,
    ):
        super().__init__()
        if len(targets) != len(source):
            raise DataError(
                f"targets must have a row for each of the source's {len(source)} recordings. "
                f"Received: {len(targets)}"
            )
        self.rows = np.asarray(rows, np.intp)
        if not len(self.rows):
            raise DataError("a data set needs at least one usable recording. Received: none")
        self.negative_rows = np.asarray([] if negative_rows is None else negative_rows, np.intp)
        self._num_negatives = round(len(self.rows) * negative_fraction / (1 - negative_fraction))
        if self._num_negatives and not len(self.negative_rows):
            raise DataError("negatives must have at least one usable recording. Received: none")
        require_usable(source, np.concatenate([self.rows, self.negative_rows]))
        if drop_remainder and len(self.rows) < batch_size:
            raise DataError(
                f"training needs at least one full batch. Received: {len(self.rows)} recordings for batches of "
                f"{batch_size}; lower training.batch_size"
            )
        self.source = source
        self.targets = np.asarray(targets, np.float32)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.augment = augment
        self.random_crop = random_crop
        self.drop_remainder = drop_remainder
        self._pool = ThreadPoolExecutor(workers, "batch") if workers else None
        self._num_ahead = 2 * workers
        self._lock = threading.Lock()
        self._ahead: dict[int, Future[Batch]] = {}
        self._asked: set[int] = set()
        self._epoch = 0
        self._order = self._order_of(0)

    def __len__(self) -> int:
        n, size = len(self.rows) + self._num_negatives, self.batch_size
        return n // size if self.drop_remainder else -(-n // size)

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
        self._ahead.clear()
        self._asked.clear()
        self._epoch = epoch
        self._order = self._order_of(epoch)

    def _order_of(self, epoch: int) -> np.ndarray:
        rows = self.rows
        if self._num_negatives:
            draws = self._rng(_NEGATIVES, epoch)
            # Each as often as any other, give or take one.
            rounds = -(-self._num_negatives // len(self.negative_rows))
            drawn = np.concatenate([draws.permutation(self.negative_rows) for _ in range(rounds)])
            rows = np.concatenate([rows, drawn[: self._num_negatives]])
        return self._rng(_ORDER, epoch).permutation(rows) if self.shuffle else rows

    def _rng(self, stream: int, *key: int) -> np.random.Generator:
        sequence = np.random.SeedSequence((self._nonnegative_seed, *key), spawn_key=(stream,))
        return np.random.default_rng(sequence)

    @property
    def _nonnegative_seed(self) -> int:
        return self.seed % 2**64

    def _compute(self, epoch: int, order: np.ndarray, index: int) -> Batch:
        rows = order[index * self.batch_size : (index + 1) * self.batch_size]
        positions = self._rng(_CROP, epoch, index).random(len(rows)) if self.random_crop else None
        images, targets = self.source.images(rows, positions), self.targets[rows]
        if self.augment is not None:
            return self.augment(images, targets, (self._nonnegative_seed, epoch, index))
        return images, targets
