"""A data set of long recordings with annotations: its windows, as a catalog that training reads like any other."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_birds.audio.clips import window_spans
from keras_birds.audio.files import recordings_in
from keras_birds.config import Config, DataConfig
from keras_birds.data.annotations import Annotation, covered, read_annotations, recording_seconds
from keras_birds.data.catalog import Catalog, read_catalog
from keras_birds.data.tables import Problems, read_taxonomy
from keras_birds.labels import LabelSet
from keras_birds.text import relative_name


def read_data(root: str | Path, config: Config) -> Catalog:
    """The data set that a configuration names: recordings with labels, or with `data.annotations` their windows."""
    return read_annotated(root, config) if config.data.annotations else read_catalog(root, config.data)


def read_annotated(root: str | Path, config: Config) -> Catalog:
    """Reads `data.annotations` of the recordings in a data set's folder, and cuts these as prediction does.

    Recordings are those below `data.audio_dir`, or where that is missing below `root`; those that nobody annotated are
    left out. What is known of a window is what `covered` says for `data.annotation_overlap`; windows without any label
    count as negative or, with `data.unannotated = "mask"`, aren't there. The label of a window, by which folds are
    stratified, is the rarest of those in it, and empty where there is none. Labels are those of `data.taxonomy`, or
    else of the annotations.

    Raises:
        DataError: if the folder isn't there or holds no annotations, or a table can't be read.
    """
    root, data = Path(root), config.data
    problems = Problems()
    taxonomy = read_taxonomy(root, data, problems)
    base, recordings = recordings_of(root, data)
    inside = root / data.annotations
    table = inside if inside.exists() else Path(data.annotations)
    found = read_annotations(table, recordings, taxonomy)
    left_out = [(str(table), note) for note in found.notes]
    if unknown := len(recordings) - len(found.recordings):
        left_out.append((str(base), f"{unknown} recordings without annotations, left out"))
    by_file: dict[str, list[Annotation]] = {x: [] for x in found.recordings}
    for x in found.rows:
        by_file[x.file].append(x)
    frames, known = [], [np.zeros((0, len(found.labels)), np.float32)]
    for path, rows in by_file.items():
        problems.add_name(relative_name(path, root))
        seconds = recording_seconds(path)
        if not math.isfinite(seconds):
            left_out.append((path, "can't be read, left out"))
            continue
        windows, targets = _windows(path, seconds, rows, found.labels, config)
        folder = Path(path).parent.relative_to(base).as_posix()
        frames.append(windows.assign(folder=texts([folder] * len(windows))))
        known.append(targets)
    table_of_windows = (
        pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"path": []}, dtype=object)
    )
    targets = np.concatenate(known)
    table_of_windows = with_labels(table_of_windows, targets, found.labels)
    told = [*problems.lines(), *found.problems]
    return Catalog(root, table_of_windows, found.labels, told, left_out, targets)


def recordings_of(root: Path, data: DataConfig) -> tuple[Path, list[str]]:
    """The recordings below `data.audio_dir`, or where that is missing below `root`; and which of both it was."""
    base = root / data.audio_dir if (root / data.audio_dir).is_dir() else root
    return base, recordings_in(base)


def _windows(
    path: str, seconds: float, rows: list[Annotation], labels: LabelSet, config: Config
) -> tuple[pd.DataFrame, np.ndarray]:
    """A recording's windows that training may use, and what is known of them `[window, label]`."""
    rate_hz = config.audio.resample_hz
    spans = window_spans(round(seconds * rate_hz), config.audio, config.data.window_overlap_s)
    start_s, samples = (np.array(x, float) for x in zip(*spans, strict=True))
    start_s = start_s / rate_hz
    end_s = start_s + samples / rate_hz
    targets = covered(rows, start_s, end_s, labels, config.data.annotation_overlap)
    window = np.arange(len(spans))
    if config.data.unannotated == "mask":
        window = window[(targets == 1).any(axis=1)]
    columns = {"start_s": start_s[window], "end_s": end_s[window], "window": window}
    return pd.DataFrame({"path": texts([path] * len(window))} | columns), targets[window]


def texts(values: Sequence[str]) -> pd.Series:
    """A column of texts that needn't be UTF-8."""
    return pd.Series(values, dtype=object)


def with_labels(windows: pd.DataFrame, targets: np.ndarray, labels: LabelSet) -> pd.DataFrame:
    """Windows with the other columns of `Catalog.recordings`, by what is known of them, `[window, label]`."""
    order = np.argsort((targets == 1).sum(axis=0), kind="stable")
    present = [[labels[k] for k in order[row[order] == 1]] for row in targets]
    nothing: dict[str, Any] = dict.fromkeys(("rating", "latitude", "longitude"), math.nan)
    return windows.assign(
        label=texts([x[0] if x else "" for x in present]),
        secondary=pd.Series([tuple(x[1:]) for x in present], dtype=object),
        **nothing,
        collection="",
        author="",
        row=0,
    )
