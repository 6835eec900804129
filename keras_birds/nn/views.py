"""Two views of each clip of a batch: parts of its image, apart in time where there is room, augmented one by one."""

from collections.abc import Sequence

import numpy as np

from keras_birds.config import Config
from keras_birds.nn.augment import Augment


def view_columns(config: Config) -> int:
    """Columns of a view's image, at the columns per second of a clip's."""
    # Rounded down: else two views of half an odd width would not lie apart.
    return max(1, int(config.mel.width * config.contrastive.view_s / config.audio.clip_s + 1e-6))


class TwoViews:
    """Makes of a batch's clips twice as many views: rows k and k + n are of one clip. What `MelDataset` augments with.

    Args:
        columns: of a view, at most those of a clip.
        augment: of the views, as `build_augment` makes it.
    """

    def __init__(self, columns: int, augment: Augment):
        self.columns, self.augment = columns, augment

    def __call__(
        self, images: np.ndarray, targets: np.ndarray, seed: int | Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Float32 `[n, height, width, 1]` and `[n, label]` to `[2 n, height, columns, 1]` and `[2 n, label]`."""
        n, height, width, channels = images.shape
        cut, changed = np.random.SeedSequence(seed).spawn(2)
        views = np.empty((2 * n, height, self.columns, channels), np.float32)
        for k, starts in enumerate(view_starts(n, width, self.columns, np.random.default_rng(cut))):
            for image, start, view in zip(images, starts, views[k * n : (k + 1) * n], strict=True):
                view[:] = image[:, start : start + self.columns]
        return self.augment(views, np.concatenate([targets, targets]), changed.generate_state(4).tolist())


def view_starts(n: int, width: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Int `[2, n]`: the first columns of two views of each of `n` clips.

    They don't overlap where a clip has room for both, and then lie in either order; else each lies anywhere.
    """
    room = width - 2 * columns
    if room < 0:
        return rng.integers(width - columns + 1, size=(2, n))
    starts = np.sort(rng.integers(room + 1, size=(2, n)), axis=0)
    starts[1] += columns
    return rng.permuted(starts, axis=0)
