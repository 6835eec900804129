"""A store of embeddings as it is written: the sink of `keras-birds embed`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_birds.audio.clips import window_hop_samples
from keras_birds.checksum import sha256_of
from keras_birds.embeddings.store import EMBEDDINGS, KINDS, VECTORS
from keras_birds.errors import ModelError
from keras_birds.inference.scorer import RecordingScores, ScoreOptions
from keras_birds.models.ensemble import Ensemble
from keras_birds.models.find import bundled_name
from keras_birds.models.library import added_name
from keras_birds.models.preset_fetch import preset_of
from keras_birds.results.arrays import ArraySink

if TYPE_CHECKING:
    import pyarrow as pa


class StoreWriter(ArraySink):
    """An open store: takes recordings with their embeddings as scores, and knows which are still to do.

    Args:
        folder: new, empty, or a store to go on with.
        settings: what the embeddings depend on, as plain data; see `store_settings`.

    Raises:
        ConfigError: if the folder belongs to another model or other settings, or holds something else.
        KerasBirdsError: if it can't be written.
    """

    contents, array, kinds = EMBEDDINGS, VECTORS, KINDS

    def __init__(self, folder: Path, settings: dict[str, Any]):
        super().__init__(folder, settings, int(settings["size"]))

    def _numbers(self, part: RecordingScores) -> np.ndarray:
        with np.errstate(over="ignore"):
            vectors = part.scores.astype(np.float16)
        if not np.isfinite(vectors).all():
            raise ModelError(
                f"Embeddings must be numbers up to {np.finfo(np.float16).max:g}. Received: "
                f"{np.abs(part.scores).max():g} in {part.recording.file}. Choose another --model"
            )
        return vectors

    def _more_columns(self, numbers: np.ndarray) -> "dict[str, pa.Array]":
        import pyarrow as pa

        return {"norm": pa.array(np.linalg.norm(numbers.astype(np.float32), axis=1), pa.float32())}


def store_settings(ensemble: Ensemble, options: ScoreOptions) -> dict[str, Any]:
    """All that a store's embeddings depend on, as plain data: those of other settings aren't mixed with these.

    Raises:
        ConfigError: if the overlap can't be used.
        ModelError: if the model gives no embeddings, or each of several members its own.
    """
    window_hop_samples(ensemble.audio, options.overlap_s)  # before a folder is made
    engine = ensemble.embedding_engine()
    path = engine.path.resolve()
    name = preset_of(engine.path)
    if not name and path.suffix == ".onnx":
        name = added_name(engine.path) or bundled_name(engine.path)
    audio = ensemble.audio.model_dump(mode="json")
    return {
        "model_id": engine.metadata.model_id,
        "model_sha256": sha256_of(path),
        "model": name or str(path),
        "size": ensemble.embedding_size,
        "decoder": audio.pop("decoder"),
        "overlap_s": options.overlap_s,
        "channel": options.channel,
        "audio": audio,
    }
