"""One model or several: clips to probabilities. It knows no files."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import cast

import numpy as np

from keras_birds.audio.mel import MelTransform
from keras_birds.errors import ConfigError, ModelError
from keras_birds.models.calibration import Calibration, shifted, sigmoid
from keras_birds.models.engines import Engine, OnnxEngine
from keras_birds.models.example_sound import example_clips
from keras_birds.models.metadata import check_members, joined_id
from keras_birds.models.shared_backbone import Head, head_of, shared_heads


class Ensemble:
    """One model or several, whose scores are the mean of the members' probabilities.

    Args:
        engines: the members; they must agree on labels (order included), audio and mel settings.
        calibrated: whether probabilities are read as the models' calibration says.
        sensitivity: BirdNET-Analyzer's, 0.5 to 1.5: more or fewer detections by a shift of all logits.

    Raises:
        ModelError: naming the member that differs and in what, or that has no calibration.
        ConfigError: if there is no such sensitivity, or calibrated probabilities would be shifted.
    """

    def __init__(self, engines: Sequence[Engine], calibrated: bool = False, sensitivity: float = 1.0):
        if not 0.5 <= sensitivity <= 1.5:
            raise ConfigError(f"--sensitivity must be from 0.5 to 1.5. Received: {sensitivity:g}")
        if calibrated and sensitivity != 1:
            raise ConfigError(
                f"--calibrated scores must stay as they are. Received: --sensitivity {sensitivity:g} as well"
            )
        if not engines:
            raise ModelError("A classifier must have at least one model. Received: none")
        for other in engines[1:]:
            if other.input_kind != engines[0].input_kind:
                raise ModelError(
                    "The members of an ensemble must take the same. Received: "
                    f"{engines[0].input_kind} in {engines[0].path} and {other.input_kind} in {other.path}"
                )
            check_members(engines[0].metadata, other.metadata, str(engines[0].path), str(other.path))
        first = engines[0].metadata
        self.engines = tuple(engines)
        self._heads = shared_heads(engines)
        self.batch_size = max(x.batch_size for x in engines)
        """Windows at a time that the members are fastest with."""
        self.model_id = joined_id([x.metadata.model_id for x in engines])
        self.labels, self.mel, self.audio = first.labels, first.mel, first.audio
        self.sensitivity = sensitivity
        self.calibration = _shared_calibration(engines) if calibrated else None
        self._transform = MelTransform(self.audio, self.mel) if engines[0].input_kind == "mel" else None
        at_once = min((x.workers for x in engines if x.workers is not None), default=None)
        self._slots = threading.Semaphore(at_once) if at_once else nullcontext()

    def inputs(self, clips: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """What the members take, of float32 `[n, clip_samples]`: images `[n, height, width, 1]`, or those."""
        return np.asarray(clips) if self._transform is None else self._transform.images(clips)

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Scores what `inputs` gives, all at once; float32 `[n, label]` in [0, 1].

        Raises:
            ModelError: if a member gives NaN, or other than one number for each label.
        """
        return self._mean(self._each(inputs), len(inputs))

    def score_embeddings(self, embeddings: np.ndarray) -> np.ndarray:
        """Scores float32 `[n, size]` as `embed_clips` gives them, by the members' heads alone; float32 `[n, label]`.

        Raises:
            ModelError: as `probabilities`, or if a head takes something else.
            ConfigError: if Keras computes a member.
        """
        return self._mean((x.probabilities(embeddings) for x in self._embedding_heads), len(embeddings))

    @cached_property
    def _embedding_heads(self) -> list[Head]:
        return self._heads or [head_of(x) for x in self.engines]

    def _mean(self, members: Iterable[np.ndarray], count: int) -> np.ndarray:
        """The mean of the members' probabilities, as they are to be read."""
        total = np.zeros((count, len(self.labels)), np.float32)
        for found in self._checked(members, count):
            total += found
        mean = total / np.float32(len(self.engines))
        if self.sensitivity != 1:
            return shifted(mean, self.sensitivity)
        return mean if self.calibration is None else self.calibration.apply(mean)

    def _checked(self, members: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
        for engine, found in zip(self.engines, members, strict=True):
            if found.shape != (count, len(self.labels)) or np.isnan(found).any():
                raise ModelError(
                    f"{engine.path}: the model must give a number for each of {len(self.labels)} labels. "
                    f"Received: shape {found.shape}, {int(np.isnan(found).sum())} of them NaN"
                )
            yield found

    def _each(self, inputs: np.ndarray) -> Iterator[np.ndarray]:
        """The probabilities of one member after the other; a backbone that they share computes once."""
        if not self._heads:
            yield from (x.probabilities(inputs) for x in self.engines)
            return
        embeddings = cast(OnnxEngine, self.engines[0]).embeddings(inputs)
        yield from (x.probabilities(embeddings) for x in self._heads)

    def score_clips(
        self, clips: np.ndarray | Sequence[np.ndarray], batch_size: int | None = None
    ) -> np.ndarray:
        """Scores clips `[n, clip_samples]`, n >= 1, in batches; float32 `[n, label]`. Threads may ask at the same time.

        Args:
            clips: float32.
            batch_size: how many at a time; `None` for what the members are fastest with.

        Raises:
            ModelError: as `probabilities`.
        """
        inputs, step = self.inputs(clips), batch_size or self.batch_size
        with self._slots:
            return np.concatenate(
                [self.probabilities(inputs[x : x + step]) for x in range(0, len(inputs), step)]
            )

    def score_members(
        self, clips: np.ndarray | Sequence[np.ndarray], batch_size: int | None = None
    ) -> np.ndarray:
        """Scores clips by each member alone, as `score_clips`: float32 `[n, member, label]`, as the models give them.

        Neither the calibration nor the sensitivity counts.
        """
        inputs, step = self.inputs(clips), batch_size or self.batch_size
        with self._slots:
            parts = [inputs[x : x + step] for x in range(0, len(inputs), step)]
            each = [np.stack(list(self._checked(self._each(x), len(x))), axis=1) for x in parts]
        return np.concatenate(each)

    @property
    def embedding_size(self) -> int:
        """Numbers of an embedding; 0 where the model gives none."""
        return self.engines[0].embedding_size

    def embed_clips(
        self, clips: np.ndarray | Sequence[np.ndarray], batch_size: int | None = None
    ) -> np.ndarray:
        """Embeddings of clips `[n, clip_samples]`, n >= 1, as `score_clips` takes them; float32 `[n, size]`.

        Raises:
            ModelError: as `embedding_engine`, or if one isn't a number.
        """
        engine, inputs, step = self.embedding_engine(), self.inputs(clips), batch_size or self.batch_size
        with self._slots:
            parts = [engine.embeddings(inputs[x : x + step]) for x in range(0, len(inputs), step)]
        found = np.concatenate(parts)
        if not np.isfinite(found).all():
            count = int((~np.isfinite(found)).sum())
            raise ModelError(
                f"{engine.path}: embeddings must be finite numbers. Received: {count} of {found.size} that are not"
            )
        return found

    @cached_property
    def _share_embedding(self) -> bool:
        """Whether all members give the same, bit for bit, as folds do that have one frozen backbone."""
        if len({x.embedding_size for x in self.engines}) > 1 or not self.embedding_size:
            return False
        inputs = self.inputs(example_clips(self.audio, self.mel))
        first, *others = (x.embeddings(inputs) for x in self.engines)
        return all(np.array_equal(x, first) for x in others)

    def embedding_engine(self) -> Engine:
        """The member that gives embeddings; raises `ModelError` if it has none, or each member has its own."""
        engine = self.engines[0]
        if not engine.embedding_size:
            other = engine.path.with_suffix(".keras")
            way_out = f"Pass --model {other}" if other.is_file() else "Choose another --model"
            raise ModelError(
                f"{engine.path}: the model must give embeddings. Received: one that gives scores only. {way_out}"
            )
        if len(self.engines) > 1 and not self._share_embedding:
            raise ModelError(
                f"Embeddings are of one network. Received: {len(self.engines)} folds, each with its own. Choose one "
                f"fold, --model {engine.path.parent}"
            )
        return engine

    def score_frames(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """Scores the frames of clips `[n, clip_samples]`: float32 `[n, frame, label]`, not calibrated.

        Raises:
            ModelError: as `frame_engines`.
        """
        engines, inputs = self.frame_engines(), self.inputs(clips)
        with self._slots:
            mean: np.ndarray = np.mean([sigmoid(x.frame_logits(inputs)) for x in engines], axis=0)
        return mean.astype(np.float32)

    def frame_engines(self) -> Sequence[Engine]:
        """The members; raises `ModelError` if one has no attention head, or another number of frames."""
        for engine in self.engines:
            if not engine.num_frames or engine.num_frames != self.engines[0].num_frames:
                raise ModelError(
                    f"{engine.path}: frames need models with an attention head and equally many frames. "
                    f"Received: {engine.num_frames or 'no'} frames. Train with --config recommended, or --set "
                    "model.head=attention"
                )
        return self.engines


def _shared_calibration(engines: Sequence[Engine]) -> Calibration:
    first = engines[0].metadata.calibration
    for engine in engines:
        found = engine.metadata.calibration
        if found is None or found != first:
            what = "none" if found is None else f"another than in {engines[0].path}"
            raise ModelError(
                f"{engine.path}: calibrated scores need a calibration that all members share. Received: {what}. Make "
                "it with `keras-birds calibrate RUN`"
            )
    return cast(Calibration, first)
