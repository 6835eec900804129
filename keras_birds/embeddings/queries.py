"""What is searched for: sound, or windows of the store, as embeddings."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_birds.audio.clips import fill
from keras_birds.audio.decode import decode, read_part
from keras_birds.audio.stream import NAN_REASON
from keras_birds.config import AudioConfig
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.embeddings.writer import store_settings
from keras_birds.errors import AudioError, ConfigError, DataError, ModelError
from keras_birds.inference.classifier import Classifier, load
from keras_birds.inference.scorer import ScoreOptions
from keras_birds.models.ensemble import Ensemble
from keras_birds.parallel import map_in_order
from keras_birds.threads import available_cpus

_LEAST_S = 0.5  # as the model hears it
MAX_WINDOWS = 20
"""Of one file: a longer one holds more than what is searched for."""

# Half a step of 16 bits: a constant, and what dithers one, is silence.
_SILENCE = 2.0**-16
_ROUNDING_S = 1e-3


@dataclass(frozen=True)
class Queries:
    """What is searched for.

    Args:
        vectors: float32 `[n, size]`.
        files: of each, the recording it is a part of.
        spans_s: of each, where it begins and ends there.
    """

    vectors: np.ndarray
    files: tuple[str, ...]
    spans_s: tuple[tuple[float, float], ...]

    def __len__(self) -> int:
        return len(self.files)


def store_model(store: EmbeddingStore, model: str | Path | None = None) -> Classifier:
    """Loads the model whose embeddings a store holds, by the store's own name for it, or from elsewhere.

    Raises:
        ModelError: if it is gone, or another.
    """
    try:
        classifier = load(model or store.model)
    except (ModelError, ConfigError) as error:
        if model is not None:
            raise
        raise ModelError(
            f"{store.folder}: sound is compared by the model that the store was made with. Received: {store.model}, "
            f"which can't be loaded ({error}). Say with --model where it is now, or search by --row"
        ) from None
    if store_settings(classifier, ScoreOptions())["model_sha256"] != store.model_sha256:
        raise ModelError(
            f"{store.folder}: a query must be embedded by the model that the store was made with, "
            f"{store.model_id}. Received: {model or store.model}, {classifier.model_id}, which has other files. Say "
            "with --model where that one is, or search by --row"
        )
    return classifier


def sound_queries(
    ensemble: Ensemble,
    files: Sequence[str],
    start_s: float | None = None,
    end_s: float | None = None,
    on_problem: Callable[[str, str], None] | None = None,
) -> Queries:
    """Embeds sounds: clips as a whole, or a part of one recording.

    What is shorter than the model's window is filled as the model's settings say. What is longer is several queries,
    windows that cover it evenly: a clip of 5 s is 0 to 3 s and 2 to 5 s for a window of 3 s. Windows without sound are
    left out.

    Args:
        ensemble: the store's model.
        files: paths or URLs.
        start_s: where the part begins; then it ends a window later, or at `end_s`.
        end_s: where the part ends.
        on_problem: is told of files that can't be used, by name and reason, and the others go on; without it the first
            raises.

    Raises:
        ConfigError: if the part's times can't be.
        AudioError: if a sound can't be read, is silent, shorter than `least_s` or longer than 20 windows.
        DataError: if no file is left.
    """
    check_part(start_s, end_s, len(files), ensemble.audio)

    def embed(file: str) -> Queries | AudioError:
        try:
            windows = _windows(file, ensemble.audio, start_s, end_s)
        except AudioError as error:
            return error
        clips, spans_s = zip(*windows, strict=True)
        return Queries(ensemble.embed_clips(clips), (file,) * len(clips), spans_s)

    found = []
    for file, queries in map_in_order(embed, [iter(files)], min(len(files), available_cpus())):
        if isinstance(queries, Queries):
            found.append(queries)
        elif on_problem is None:
            raise queries
        else:
            on_problem(file, queries.reason)
    if not found:
        raise DataError("there must be a sound to search for. Received: no file that can be used")
    return joined(found)


def row_queries(store: EmbeddingStore, rows: Sequence[int]) -> Queries:
    """Windows of the store itself; a `DataError` for rows that aren't there."""
    numbers = np.array(rows, np.int64)
    vectors, windows = store.vectors(numbers), store.windows(numbers)
    spans_s = tuple(zip(windows["start_s"].tolist(), windows["end_s"].tolist(), strict=True))
    return Queries(vectors, tuple(windows["file"]), spans_s)


def joined(queries: Sequence[Queries]) -> Queries:
    """All of them as one."""
    vectors = np.concatenate([x.vectors for x in queries])
    files = tuple(y for x in queries for y in x.files)
    return Queries(vectors, files, tuple(y for x in queries for y in x.spans_s))


def least_s(audio: AudioConfig) -> float:
    """The shortest sound that can be searched for, in the recording's own seconds."""
    return round(_LEAST_S * audio.speed, 9)


def check_part(start_s: float | None, end_s: float | None, n_files: int, audio: AudioConfig) -> None:
    """Raises a `ConfigError` if a query can't be from `start_s` to `end_s`."""
    if start_s is None and end_s is None:
        return
    if n_files != 1:
        raise ConfigError(f"--start and --end are a part of one query. Received: {n_files} of them")
    begin_s, shortest_s = start_s or 0.0, least_s(audio)
    if not begin_s >= 0 or (end_s is not None and not end_s - begin_s >= shortest_s):
        end = "" if end_s is None else f" --end {end_s:g}"
        raise ConfigError(
            f"--start must be at least 0, and --end {shortest_s:g} s later or more. Received: --start {begin_s:g}{end}"
        )


def _windows(
    file: str, audio: AudioConfig, start_s: float | None, end_s: float | None
) -> list[tuple[np.ndarray, tuple[float, float]]]:
    """Clips `[clip_samples]` of a file's sound, and where they begin and end in it."""
    rate_hz, n = audio.resample_hz, audio.clip_samples
    begin_s = start_s or 0.0
    if start_s is not None and end_s is None:
        end_s = start_s + audio.window_s
    most_s = MAX_WINDOWS * audio.window_s
    samples = _samples(file, audio, begin_s, min(end_s or math.inf, begin_s + most_s + 1))
    length_s = len(samples) / rate_hz
    if length_s > most_s + _ROUNDING_S:
        raise AudioError(
            file,
            f"a query must be at most {most_s:g} s long, {MAX_WINDOWS} of the model's windows, and it is longer; "
            "choose a part with --start and --end",
            "unreadable",
        )
    if length_s < (shortest_s := least_s(audio)) - _ROUNDING_S * audio.speed:
        what = "it" if start_s is None and end_s is None else f"what it has from {begin_s:g} s on"
        raise AudioError(
            file,
            f"a query must be at least {shortest_s:g} s long, and {what} is {length_s:.2f} s",
            "too short",
        )
    if not np.isfinite(samples).all():
        raise AudioError(file, NAN_REASON)
    found = []
    starts = np.linspace(0, max(0, len(samples) - n), -(-len(samples) // n))
    for first in starts.round().astype(int).tolist():
        clip = samples[first : first + n]
        if np.ptp(clip) > _SILENCE:
            at_s = begin_s + first / rate_hz
            found.append((fill(clip, n, audio.fill), (at_s, at_s + len(clip) / rate_hz)))
    if not found:
        raise AudioError(file, "a query must have sound, and this is silent", "silent")
    return found


def _samples(file: str, audio: AudioConfig, begin_s: float, end_s: float) -> np.ndarray:
    if audio.decoder == "soundfile":
        return read_part(file, begin_s, end_s, audio)
    rate_hz = audio.resample_hz
    return decode(file, audio).samples[round(begin_s * rate_hz) : round(end_s * rate_hz)]
