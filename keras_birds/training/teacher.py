"""A teacher: a head on a larger model's embeddings, which labels recordings for a network of one's own to learn from.

After Hinton et al. 2015, arXiv:1503.02531 (soft labels), and Lee 2013, "Pseudo-Label". The teacher runs once a window,
not at each step, and is no part of the network.
"""

from pathlib import Path

import keras
import numpy as np

from keras_birds.data.soft_labels import SoftLabels
from keras_birds.data.windows import Window
from keras_birds.models.calibration import sigmoid
from keras_birds.progress import Reporter
from keras_birds.run_layout import SOFT_LABELS, Fold, fold_folder
from keras_birds.training.network import train_head
from keras_birds.training.run import TrainingRun, embed_unlabelled, frozen_run


def soft_labels(run: TrainingRun, fold: Fold, reporter: Reporter) -> SoftLabels:
    """What a teacher, trained on a fold's labelled recordings alone, hears in those without labels.

    Kept in the fold's folder, so that a run that goes on has the same.
    """
    path, labels = fold_folder(run.out, fold) / SOFT_LABELS, run.catalog.labels
    if path.is_file():
        return SoftLabels.read(path, labels)
    keras.utils.clear_session()
    keras.utils.set_random_seed(run.config.training.seed)
    frozen = frozen_run(run, reporter)
    head, source = train_head(frozen, fold, reporter), embed_unlabelled(frozen, reporter)
    rows, clip_s = np.flatnonzero(source.usable), run.config.audio.window_s
    embeddings, counts = source.windows(rows)
    each = [
        by_clip(x, frozen.config.audio.window_s, clip_s) for x in np.split(embeddings, np.cumsum(counts)[:-1])
    ]
    windows = tuple(
        Window(Path(run.unlabelled[row]), k * clip_s, (k + 1) * clip_s)
        for row, clips in zip(rows, each, strict=True)
        for k in range(len(clips))
    )
    scores = sigmoid(head.predict(np.concatenate(each), batch_size=256, verbose=0))
    soft = SoftLabels(windows, labels, scores)
    soft.write(path)
    teacher = run.config.training.teacher
    reporter.log(f"fold {fold}: {teacher} labelled {len(windows)} windows of {len(rows)} recordings")
    return soft


def by_clip(embeddings: np.ndarray, window_s: float, clip_s: float) -> np.ndarray:
    """A recording's embeddings `[window, size]`, one window after the other, as those of longer or shorter clips.

    A clip's is the mean of the windows' that it overlaps, by how long; all clips begin before the last window does,
    where there is sound for certain, or are the first. Cross-entropy of a head on four clips a label was 0.102 of 308
    others of five seconds, and 0.111 with the mean of the windows' probabilities.

    Returns:
        Float32 `[clip, size]`.
    """
    begins = np.arange(len(embeddings)) * window_s
    starts = np.arange(max(1.0, np.ceil(begins[-1] / clip_s)))[:, None] * clip_s
    overlap = np.minimum(starts + clip_s, begins + window_s) - np.maximum(starts, begins)
    weights = np.maximum(overlap, 0)
    return np.asarray(weights @ embeddings / weights.sum(axis=1, keepdims=True), np.float32)
