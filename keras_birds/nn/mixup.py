"""Mixup of images and multi-label targets."""

from typing import Any

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="keras_birds")
class MelMixUp(keras.layers.MixUp):
    """`keras.layers.MixUp` that respects masked labels and applies to a share of the batches.

    Each clip is blended with another of its batch: `w * clip + (1 - w) * other`, `w` drawn for each clip from
    Beta(alpha, alpha), images and labels alike. A label is -1 where either clip's is.

    Args:
        alpha: above 0. At 0.5, the published value, most blends are close to one of the two.
        probability: that a batch is mixed at all.
        seed: of the draws when called as a layer.
        kwargs: as for `keras.layers.MixUp`.

    Called on `{"images": [batch, height, width, 1], "labels": [batch, label]}`, returns the same.

    Raises:
        ValueError: if an argument is out of range.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412.
    """

    def __init__(self, alpha: float = 0.5, probability: float = 1.0, seed: int | None = None, **kwargs: Any):
        super().__init__(alpha=alpha, seed=seed, **kwargs)
        if alpha <= 0:
            raise ValueError(f"`alpha` must be above 0. Received: alpha={alpha}")
        if not 0 <= probability <= 1:
            raise ValueError(f"`probability` must be in [0, 1]. Received: probability={probability}")
        self.probability = probability

    def get_random_transformation(self, data: Any, training: bool = True, seed: Any = None) -> dict[str, Any]:
        """Draws each clip's partner and weight; in a batch that is not mixed every clip is its own partner."""
        backend = self.backend
        images = data["images"] if isinstance(data, dict) else data
        batch = backend.shape(images)[0] if len(images.shape) == 4 else 1
        if seed is None:
            seed = self._get_seed_generator(backend._backend)
        own = backend.numpy.arange(0, batch, dtype="int32")
        chosen = backend.random.uniform((), seed=seed) < self.probability
        order = backend.random.shuffle(own, seed=seed)
        weight = backend.random.beta((batch,), self.alpha, self.alpha, seed=seed)
        return {
            "mix_weight": backend.numpy.where(chosen, weight, 1.0),
            "permutation_order": backend.numpy.where(chosen, order, own),
        }

    def transform_labels(self, labels: Any, transformation: dict[str, Any], training: bool = True) -> Any:
        """Blends labels `[batch, label]`."""
        if not training:
            return labels
        backend = self.backend
        labels = backend.cast(labels, self.compute_dtype)
        other = backend.numpy.take(labels, transformation["permutation_order"], axis=0)
        weight = backend.cast(backend.numpy.reshape(transformation["mix_weight"], [-1, 1]), labels.dtype)
        mixed = weight * labels + (1.0 - weight) * other
        return backend.numpy.where(backend.numpy.minimum(labels, other) < 0, -1.0, mixed)

    def augment_arrays(
        self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same for arrays, without the backend.

        Args:
            images: float32 `[batch, height, width, 1]`, left as they are.
            labels: float32 `[batch, label]`, left as they are.
            rng: source of the draws.
        """
        chosen, order = rng.random() < self.probability, rng.permutation(len(images))
        weight = rng.beta(self.alpha, self.alpha, len(images)).astype(np.float32)
        if not chosen:
            return images, labels
        mixed = images[order]
        mixed -= images
        mixed *= 1 - weight[:, None, None, None]
        mixed += images
        other = labels[order]
        mixed_labels = weight[:, None] * labels + (1 - weight[:, None]) * other
        return mixed, np.where(np.minimum(labels, other) < 0, np.float32(-1), mixed_labels)

    def get_config(self) -> dict[str, Any]:
        """Arguments to make an equal one with."""
        return {**super().get_config(), "probability": self.probability}
