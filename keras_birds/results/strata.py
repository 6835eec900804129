"""Every window's scores of a label, and a draw of windows by bins of the score: what `density` needs reviewed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from keras_birds.csv_table import read_records
from keras_birds.errors import DataError
from keras_birds.inference.scorer import RecordingStatus
from keras_birds.results.results import read_detections, read_scores, score_labels
from keras_birds.results.segments import NAMES, Segment
from keras_birds.results.writers.files import new_text
from keras_birds.text import csv_writer

STRATA = "strata.csv"
STRATA_COLUMNS = ("label", "from_score", "windows", "drawn")
"""Of `strata.csv`, beside the clips of a stratified draw: the bins of each label with their lowest scores, in order."""
BINS = 10

_PLACES = ("channel", "start_s", "end_s")


@dataclass(frozen=True, eq=False)
class WindowScores:
    """All windows of a folder of results, with the scores of some labels.

    Attributes:
        recordings: in the folder's order, those with windows.
        recording: of each window, its number among them; int `[window]`.
        channel, start_s, end_s: of each window, `[window]`.
        scores: by label, float32 `[window]`, as kept: 16 bits, neither smoothed nor limited by place.
    """

    recordings: list[RecordingStatus]
    recording: np.ndarray
    channel: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    scores: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.recording)

    @property
    def hours(self) -> np.ndarray:
        """How much sound of each recording the windows cover, `[recording]`: all channels, without left out voices."""
        pairs = np.unique(np.stack([self.recording, self.channel]), axis=1)
        each = [x.seconds - x.unscored_s - sum(y - z for z, y in x.left_out_s) for x in self.recordings]
        return np.bincount(pairs[0], minlength=len(each)) * np.array(each) / 3600


def read_window_scores(folder: Path, labels: Sequence[str]) -> WindowScores:
    """Reads every window's scores of some labels.

    Raises:
        DataError: if the folder isn't one of results, its scores weren't kept, or a label isn't the model's.
    """
    known = score_labels(folder)
    if unknown := [x for x in labels if x not in known]:
        raise DataError(_unknown(folder, unknown, known))
    recordings: list[RecordingStatus] = []
    parts: list[list[np.ndarray]] = []
    for recording, batches in read_scores(folder, labels):
        columns = [[x.column(name).to_numpy() for name in (*_PLACES, *labels)] for x in batches]
        if columns:
            parts.append([np.full(sum(len(x[0]) for x in columns), len(recordings))])
            parts[-1] += [np.concatenate(x) for x in zip(*columns, strict=True)]
            recordings.append(recording)
    if not parts:
        raise DataError(f"results must hold windows. Received: none in {folder}")
    recording_of, channel, start_s, end_s, *scores = map(np.concatenate, zip(*parts, strict=True))
    found = {x: y.astype(np.float32) for x, y in zip(labels, scores, strict=True)}
    return WindowScores(recordings, recording_of, channel, start_s, end_s, found)


def _unknown(folder: Path, unknown: Sequence[str], known: Iterable[str]) -> str:
    near = get_close_matches(unknown[0].casefold(), by_fold := {x.casefold(): x for x in known}, 1, 0.5)
    meant = f". Is {by_fold[near[0]]} meant?" if near else ""
    return f"{folder}: labels must be those of its model. Received: {', '.join(unknown)}{meant}"


def _named(folder: Path, wanted: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Labels that are called so, or have detections with such a name; with these' scientific and common names."""
    names = dict.fromkeys(score_labels(folder), ("", ""))
    for _, batches in read_detections(folder):
        for batch in batches:
            for label, *both in set(zip(*(batch.column(x).to_pylist() for x in NAMES), strict=True)):
                names[label] = tuple(both)
    by_name = {y.casefold(): x for x, both in names.items() for y in (*both, x) if y}
    if unknown := [x for x in wanted if x.casefold() not in by_name]:
        raise DataError(_unknown(folder, unknown, [z for x, y in names.items() for z in (x, *y) if z]))
    return {x: names[x] for x in sorted({by_name[y.casefold()] for y in wanted})}


def bin_of(edges: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The bin of each score; scores below the first edge belong to the first bin."""
    return np.searchsorted(edges[1:-1], scores, side="right")


def halving_edges(scores: np.ndarray, bins: int) -> np.ndarray:
    """Edges of bins that halve: the lower half of the scores, the next quarter, the next eighth, ...; the best are few.

    Equal scores lie in one bin, so that there may be fewer.

    Args:
        scores: of all windows, `[window]`.
        bins: how many at most.

    Returns:
        Float32 `[bin + 1]`, from 0 to 1.
    """
    quantiles = 1 - 0.5 ** np.arange(1, bins)
    inner = np.unique(np.quantile(scores, quantiles, method="higher")) if len(scores) else np.zeros(0)
    return np.array([0.0, *inner[(inner > 0) & (inner < 1)], 1.0], np.float32)


def draw_rows(edges: np.ndarray, scores: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows of windows: as many of each bin as there can be in `count`, random within it; what one lacks others give."""
    rng, bins = np.random.default_rng(seed), bin_of(edges, scores)
    shuffled = [rng.permutation(np.flatnonzero(bins == k)) for k in range(len(edges) - 1)]
    shares = np.zeros(len(shuffled), int)
    sizes = np.array([len(x) for x in shuffled])
    for _ in range(min(count, sizes.sum())):
        # The best bins first, where there isn't one for each.
        open_bins = np.flatnonzero(shares < sizes)
        shares[open_bins[len(open_bins) - 1 - np.argmin(shares[open_bins][::-1])]] += 1
    return np.sort(np.concatenate([x[:n] for x, n in zip(shuffled, shares, strict=True)]))


@dataclass(frozen=True, eq=False)
class Strata:
    """Bins of one label's windows: edges `[bin + 1]`, and how many windows there are and were drawn, `[bin]`."""

    label: str
    edges: np.ndarray
    windows: np.ndarray
    drawn: np.ndarray


def draw_segments(
    folder: Path, labels: Sequence[str], per_label: int, seed: int
) -> tuple[list[Strata], list[Segment]]:
    """Draws `per_label` windows of each label, equally many from each of at most ten bins that halve.

    Args:
        folder: of results with scores.
        labels: labels, or scientific or common names that its detections have.
        per_label: how many.
        seed: the same seed draws the same.

    Returns:
        The bins, and what is to be cut: by label, then by score from the highest.

    Raises:
        DataError: as `read_window_scores`.
    """
    named = _named(folder, labels)
    found = read_window_scores(folder, list(named))
    strata, segments = [], []
    for label, scores in found.scores.items():
        edges = halving_edges(scores, BINS)
        rows = draw_rows(edges, scores, per_label, seed)
        sizes = (np.bincount(bin_of(edges, x), minlength=len(edges) - 1) for x in (scores, scores[rows]))
        strata.append(Strata(label, edges, *sizes))
        for k in rows[np.argsort(-scores[rows], kind="stable")]:
            score, start_s, end_s, channel = (
                x[k].item() for x in (scores, found.start_s, found.end_s, found.channel)
            )
            recording = found.recordings[found.recording[k]]
            segments.append(Segment(recording, score, start_s, end_s, channel, label, *named[label]))
    return strata, segments


def write_strata(path: Path, strata: Sequence[Strata]) -> None:
    """Writes `strata.csv`."""
    with new_text(path) as stream:
        rows = csv_writer(stream)
        rows.writerow(STRATA_COLUMNS)
        for x in strata:
            for low, windows, drawn in zip(x.edges[:-1], x.windows, x.drawn, strict=True):
                rows.writerow((x.label, f"{low:.9g}", windows, drawn))  # exactly a float32


def read_strata(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Edges and numbers of windows of each label; a `DataError` if the table can't be used."""
    found: dict[str, list[tuple[float, int]]] = {}
    for row, cells in read_records(path, STRATA_COLUMNS, "strata"):
        try:
            found.setdefault(cells["label"], []).append((float(cells["from_score"]), int(cells["windows"])))
        except ValueError as error:
            raise DataError(
                f"{path}: row {row}: from_score and windows must be numbers. Received: {error}"
            ) from None
    return {
        label: (np.array([*(x for x, _ in bins), 1.0], np.float32), np.array([n for _, n in bins]))
        for label, bins in found.items()
    }
