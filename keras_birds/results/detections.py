"""From a recording's scores to detections: choose, merge, and sum up."""

from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_birds.audio.recorder import Origin
from keras_birds.csv_table import read_records
from keras_birds.errors import ConfigError, DataError
from keras_birds.inference.scorer import RecordingStatus
from keras_birds.labels import LabelSet
from keras_birds.results.context import Context
from keras_birds.results.occurrence import Occurrence, Presence
from keras_birds.results.origin import Origins
from keras_birds.results.voices import TOUCHING_S, check_voices
from keras_birds.text import storable

if TYPE_CHECKING:
    import pyarrow as pa

THRESHOLD = 0.25
"""The least probability that is a detection, unless another is asked for."""

SUMMARY_COLUMNS = ("file", "label", "scientific_name", "common_name", "max", "mean_top2", "windows")
"""Of `summary.csv`: a row for each recording and label detected in it."""

_WINDOWS_AT_ONCE = 256


@dataclass(frozen=True)
class DetectionRules:
    """What of the scores becomes a detection.

    Args:
        thresholds: least probability, `[label]`.
        top_k: at most so many labels a window; `None` for all.
        species: whether a label may be detected, `[label]`.
        smooth_windows: over how many neighbouring windows scores are averaged before, as of `Context`.
        file_level: how many best windows weigh each score, as of `Context`; `None` for not at all.
        merge: whether windows of the same label that touch or overlap become one event with the highest score.
        origins: where and when recordings were made.
        occurrence: which labels may occur where and when a recording was made; `None` for all everywhere.
        no_voices: probability from which windows with a voice, and their neighbours, are left out; `None` for none.
    """

    thresholds: tuple[float, ...]
    species: tuple[bool, ...]
    top_k: int | None = None
    smooth_windows: int = 1
    file_level: int | None = None
    merge: bool = False
    origins: Origins = field(default_factory=Origins)
    occurrence: Occurrence | None = None
    no_voices: float | None = None

    @classmethod
    def of(
        cls,
        labels: LabelSet,
        threshold: float | Path = THRESHOLD,
        species: tuple[bool, ...] | None = None,
        **others: Any,
    ) -> "DetectionRules":
        """Checks the rules, and reads thresholds from a file where they are one.

        Args:
            labels: of the model.
            threshold: one number, or a CSV with the columns label and threshold, a row for every label.
            species: as in the class, for instance of `read_species`; `None` for all labels.
            others: as in the class.

        Raises:
            ConfigError: if a number is out of range.
            ModelError: if voices are to be left out, and no label is one.
            DataError: if the file can't be read, a label is unknown, lacking or there twice, or it holds no numbers.
        """
        if isinstance(threshold, Path):
            thresholds = _thresholds_of(threshold, labels)
        else:
            _check_threshold(threshold, "--threshold")
            thresholds = (float(threshold),) * len(labels)
        rules = cls(thresholds, (True,) * len(labels) if species is None else species, **others)
        _ = rules.context
        if rules.no_voices is not None:
            check_voices(labels, rules.no_voices)
        return rules

    @cached_property
    def context(self) -> Context:
        """What becomes of scores by those of other windows."""
        return Context(self.smooth_windows, self.file_level)

    def presence(self, origin: Origin) -> Presence | None:
        """What may occur where and when a recording was made; `None` if nobody asks for that or no place is known."""
        return None if self.occurrence is None else self.occurrence.of(origin)


@cache
def detection_schema() -> "pa.Schema":
    """Columns of every table of detections, in order, one row a detection.

    file            the path or URL as in `manifest.csv`; bytes that aren't UTF-8 as `\\udcXX`
    channel         from 1; 0 for the mean over channels
    start_s, end_s  in the recording; seconds
    start_time      local date and time of day of `start_s`, where it is known when the recording began
    start_time_utc  the same in UTC, where the offset of local time is known too
    label           as the model names it
    scientific_name, common_name   empty where the model doesn't know
    score           probability
    model_id        which model
    occurrence      probability that the label occurs where and when the recording was made, where that was asked for
    """
    import pyarrow as pa

    types = {
        **{"file": pa.string(), "channel": pa.int16(), "start_s": pa.float64(), "end_s": pa.float64()},
        **{"start_time": pa.timestamp("ms"), "start_time_utc": pa.timestamp("ms", "UTC")},
        **{"label": pa.string(), "scientific_name": pa.string(), "common_name": pa.string()},
        **{"score": pa.float32(), "model_id": pa.string(), "occurrence": pa.float32()},
    }
    nullable = ("start_time", "start_time_utc", "occurrence")
    return pa.schema([pa.field(name, x, nullable=name in nullable) for name, x in types.items()])


def read_thresholds(path: Path) -> dict[str, float]:
    """Reads a CSV with the columns label and threshold, for instance `density/thresholds.csv`.

    Raises:
        DataError: if it can't be read, a label is there twice, or a threshold is no number.
        ConfigError: if one isn't from 0 to 1.
    """
    found: dict[str, tuple[float, int]] = {}
    for row, cells in read_records(path, ("label", "threshold"), "thresholds"):
        label, text = cells["label"], cells["threshold"]
        if label in found:
            raise DataError(
                f"{path}: a label must have one threshold. Received: {label} in rows {found[label][1]} and {row}. "
                "Leave one of them out"
            )
        try:
            found[label] = float(text), row
        except ValueError:
            raise DataError(f"{path}: row {row}: a threshold must be a number. Received: {text!r}") from None
        _check_threshold(found[label][0], f"{path}: row {row}: the threshold")
    return {x: value for x, (value, _) in found.items()}


def _thresholds_of(path: Path, labels: LabelSet) -> tuple[float, ...]:
    found = read_thresholds(path)
    _refuse_names(path, [x for x in found if x not in labels], "labels that the model knows")
    _refuse_names(path, [x for x in labels if x not in found], "a threshold for every label", "none for ")
    return tuple(found[x] for x in labels)


def read_species(path: Path, labels: LabelSet, strict: bool = False) -> tuple[tuple[bool, ...], list[str]]:
    """Reads a list of labels, scientific or common names, or `Scientific name_Common name`, one a line.

    Empty lines and `#` comments are skipped, and capitals don't count. With `strict`, names that the model doesn't know
    are refused.

    Returns:
        Whether each label is in the list, `[label]`, and the names that the model doesn't know.

    Raises:
        DataError: if it can't be read, holds no name that the model knows, or, with `strict`, one that it doesn't know.
    """
    wanted = read_names(path)
    places: dict[str, set[int]] = {}
    for place, item in enumerate(labels.items):
        for name in (item.name, item.scientific_name, item.common_name):
            places.setdefault(name.casefold(), set()).add(place)
    found: dict[str, set[int]] = {}
    for line in wanted:
        found[line] = set().union(*(places.get(x, ()) for x in name_parts(line)))
    unknown = [x for x, known in found.items() if not known]
    if any(";" in x for x in unknown):
        raise DataError(
            f"{path}: a species list must have one name a line. Received: {unknown[0]!r}, which looks like a row of a "
            "semicolon-separated table. Keep the column of names"
        )
    if strict or len(unknown) == len(found):
        _refuse_names(path, unknown, "names that the model knows")
    chosen = set().union(*found.values())
    return tuple(x in chosen for x in range(len(labels))), unknown


def read_names(path: Path) -> list[str]:
    """Reads a list of names, one a line, without empty lines and `#` comments; a `DataError` if there is none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: a species list must be readable UTF-8 text. Received: {error}") from None
    names = list(dict.fromkeys(x.strip() for x in lines if x.strip() and not x.lstrip().startswith("#")))
    if not names:
        raise DataError(f"{path}: a species list must hold at least one name. Received: none")
    return names


def name_parts(line: str) -> set[str]:
    """What a label may be called by a line of a species list, in small letters: all of it, or what `_` parts."""
    names = (line, *line.split("_", 1)) if "_" in line else (line,)
    return {x.casefold() for x in names if x}


def _check_threshold(value: float, what: str) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{what} must be from 0 to 1. Received: {value:g}")


def _refuse_names(path: Path, names: list[str], wanted: str, prefix: str = "") -> None:
    if names:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        raise DataError(f"{path}: there must be {wanted}. Received: {prefix}{', '.join(names[:10])}{more}")


def chosen(scores: np.ndarray, rules: DetectionRules, wanted: np.ndarray) -> np.ndarray:
    """Which scores `[window, label]` are detections; `wanted` says which labels may be, `[label]`."""
    found = (scores >= np.asarray(rules.thresholds, np.float32)) & wanted
    if rules.top_k is not None and rules.top_k < scores.shape[1]:
        allowed = np.where(wanted, scores, -1)
        worse = np.argsort(-allowed, axis=1, kind="stable")[:, rules.top_k :]
        np.put_along_axis(found, worse, False, axis=1)
    return found


def merge(columns: list[np.ndarray]) -> list[np.ndarray]:
    """Makes one event of windows of a label that touch: `start_s`, `end_s`, `channel`, `label`, `score`, each `[n]`."""
    start_s, _, channel, label, _ = columns
    if len(label) == 0:
        return columns
    order = np.lexsort((start_s, channel, label))
    start_s, end_s, channel, label, score = (x[order] for x in columns)
    # Windows have one length: the one before in time ends last.
    is_new = np.ones(len(label), bool)
    is_other = (label[1:] != label[:-1]) | (channel[1:] != channel[:-1])
    is_new[1:] = is_other | (start_s[1:] > end_s[:-1] + TOUCHING_S)
    first = np.flatnonzero(is_new)
    ends, best = np.maximum.reduceat(end_s, first), np.maximum.reduceat(score, first)
    return [start_s[first], ends, channel[first], label[first], best]


def detection_table(
    recording: RecordingStatus,
    columns: list[np.ndarray],
    likely: np.ndarray | None,
    labels: LabelSet,
    model_id: str,
) -> "pa.Table":
    """A table of `detection_schema`, its texts as dictionaries.

    Args:
        recording: whose file and origin count.
        columns: `start_s`, `end_s`, `channel`, `label` (its position) and `score`, each `[n]`.
        likely: probability that the label occurs where and when it was recorded, `[n]`, if that is known.
        labels, model_id: as for `Digest`.
    """
    import pyarrow as pa

    start_s, end_s, channel, label, score = columns
    origin = recording.origin
    milliseconds = np.round(start_s * 1000).astype("timedelta64[ms]")
    times = np.datetime64(origin.local, "ms") + milliseconds
    utc_offset = (
        np.timedelta64("NaT") if origin.utc_offset_min is None else np.timedelta64(origin.utc_offset_min, "m")
    )
    same = np.zeros(len(label), np.int32)

    def texts(indices: np.ndarray, values: list[str]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(indices.astype(np.int32), pa.array(values, pa.string()))

    there, place = np.unique(label, return_inverse=True)
    items = [labels.items[k] for k in there]
    names = (
        texts(place, [getattr(x, field) for x in items])
        for field in ("name", "scientific_name", "common_name")
    )
    values = [
        *(texts(same, [storable(recording.file)]), channel.astype(np.int16)),
        *(start_s.astype(np.float64), end_s.astype(np.float64)),
        *(times, pa.array(times - utc_offset, pa.timestamp("ms", "UTC"))),
        *(*names, score.astype(np.float32), texts(same, [model_id])),
        pa.nulls(len(label), pa.float32()) if likely is None else pa.array(likely, from_pandas=True),
    ]
    return pa.table(values, detection_schema().names)


def summary_table(file: str, labels: LabelSet, best: np.ndarray, counts: np.ndarray) -> "pa.Table":
    """Rows of `SUMMARY_COLUMNS` of labels with a count, of the one or two best scores `[1 or 2, label]`."""
    import pyarrow as pa

    order = [int(k) for k in np.argsort(-best[0], kind="stable") if counts[k]]
    items = [labels.items[k] for k in order]
    columns = [
        *([storable(file)] * len(order), [x.name for x in items]),
        *([x.scientific_name for x in items], [x.common_name for x in items]),
        *(best[0, order], best[:, order].mean(axis=0), counts[order]),
    ]
    types = [pa.string()] * 4 + [pa.float32()] * 2 + [pa.int32()]
    arrays = [pa.array(x, kind) for x, kind in zip(columns, types, strict=True)]
    return pa.table(arrays, list(SUMMARY_COLUMNS))
