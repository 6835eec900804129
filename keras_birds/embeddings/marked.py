"""Windows of a store that people reviewed, as a catalog that training reads like any other; and those nobody marked."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from keras_birds.audio.remote import is_url
from keras_birds.data.annotated import texts, with_labels
from keras_birds.data.catalog import Catalog
from keras_birds.data.reviews import SUFFIX, disagreements, find_reviews, settled
from keras_birds.data.tables import Problems
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.errors import DataError
from keras_birds.labels import LabelSet

_LEAST_OVERLAP = 0.5  # of what was marked or of the window, whichever is shorter
_SEED = 0


def read_marked(store: EmbeddingStore, folder: Path) -> Catalog:
    """Reads the reviews below a folder, each of the window of the store that it overlaps most.

    No recording is read, and none need be there. Of several windows that a review overlaps alike, as where channels
    were embedded by themselves, the nearest and first counts. A window holds a label if any part of it does. Labels are
    those that a reviewer found somewhere; of the others nothing can be learned.

    Returns:
        As of annotated recordings: a row a window, `window` its row in the store, and in `known` 1 and 0 where
        reviewers say so, -1 for labels of which they say nothing or not the same.

    Raises:
        DataError: if there are no reviews, one can't be used, the store has none of the windows, or no label is found.
    """
    reviews = list(find_reviews(folder, must_exist=False))
    if not reviews:
        raise DataError(
            f"data.reviews must be a folder with reviews. Received: {folder}, without any *{SUFFIX}"
        )
    claims, rows_of = settled(reviews), _rows_by_name(store)
    spans = {x: _spans(store, rows_of[x]) for x in {x for x, *_ in claims} if rows_of.get(x)}
    found: dict[int, dict[str, float]] = {}
    absent: set[tuple[str, float, float]] = set()
    for (file, start_s, end_s, label), target in claims.items():
        position = _nearest(*spans[file], start_s, end_s) if file in spans else None
        if position is None:
            absent.add((file, start_s, end_s))
        else:
            known = found.setdefault(rows_of[file][position], {})
            known[label] = max(known.get(label, 0.0), target)
    left_out = [
        (str(folder), text)
        for count, text in (
            (sum(x.verdict == "unsure" for x in reviews), "reviews left out as unsure"),
            (len(disagreements(reviews)), "left out, on which reviewers disagree"),
            (len(absent), f"reviewed windows left out, which {store.folder} doesn't hold"),
        )
        if count
        for text in [f"{count} {text}"]
    ]
    if not found:
        example = next(iter(absent), None)
        told = f", as {example[0]} at {example[1]:g} s" if example else ""
        raise DataError(
            f"{folder}: reviews must tell what is in windows of {store.folder}. Received: {len(reviews)} reviews, "
            f"{len(absent)} of windows that it doesn't hold{told}. Embed these recordings, or name another store"
        )
    return _catalog(store, folder, found, left_out)


def _catalog(
    store: EmbeddingStore,
    folder: Path,
    found: dict[int, dict[str, float]],
    left_out: list[tuple[str, str]],
) -> Catalog:
    counts: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for known in found.values():
        counts.update(x for x, target in known.items() if target)
        wrong.update(list(known))
    labels = LabelSet(sorted(counts))
    if not len(labels):
        raise DataError(
            f"{folder}: a label must be right somewhere. Received: {len(found)} reviewed windows, none with a label"
        )
    for name in sorted(wrong.keys() - counts.keys()):
        left_out.append((str(folder), f"{name} left out: it is in none of {wrong[name]} reviewed windows"))
    rows = np.array(sorted(x for x, known in found.items() if known.keys() & counts.keys()), np.int64)
    targets = np.full((len(rows), len(labels)), -1, np.float32)
    for at, row in enumerate(rows.tolist()):
        for name, target in found[row].items():
            if name in counts:
                targets[at, labels.index(name)] = target
    windows = store.windows(rows).rename(columns={"row": "window", "file": "path"})
    windows["path"] = texts([_name(x) for x in windows["path"]])
    folders = [x.rpartition("/")[0] if is_url(x) else str(Path(x).parent) for x in windows["path"]]
    windows["folder"], problems = texts(folders), Problems()
    for name in dict.fromkeys(windows["path"]):
        problems.add_name(name)
    return Catalog(folder, with_labels(windows, targets, labels), labels, problems.lines(), left_out, targets)


def stored_rows(store: EmbeddingStore, paths: Sequence[str]) -> list[range]:
    """The rows of some recordings, none of one that the store doesn't hold."""
    rows = _rows_by_name(store)
    return [rows.get(_name(x), range(0)) for x in paths]


def unmarked_rows(store: EmbeddingStore, paths: Iterable[str], most: int) -> np.ndarray:
    """So many rows, or all, of windows of other recordings than these: sorted, drawn at random, always the same."""
    is_free = np.ones(len(store), bool)
    for rows in stored_rows(store, list(dict.fromkeys(paths))):
        is_free[rows.start : rows.stop] = False
    free = np.flatnonzero(is_free)
    if len(free) <= most:
        return free
    return np.sort(np.random.default_rng(_SEED).choice(free, most, replace=False))


def _rows_by_name(store: EmbeddingStore) -> dict[str, range]:
    return {_name(x.file): store.rows_of(x.file) for x in store.recordings}


def _name(file: str) -> str:
    """What a recording is compared by: a URL, or the path without links."""
    return file if is_url(file) else str(Path(file).resolve())


def _spans(store: EmbeddingStore, rows: range) -> tuple[np.ndarray, np.ndarray]:
    windows = store.windows(np.arange(rows.start, rows.stop))
    return windows["start_s"].to_numpy(), windows["end_s"].to_numpy()


def _nearest(starts: np.ndarray, ends: np.ndarray, start_s: float, end_s: float) -> int | None:
    """The window that overlaps a time most; `None` if it does so by less than half of the shorter of both."""
    overlaps = (np.minimum(ends, end_s) - np.maximum(starts, start_s)).round(3)
    distances = np.abs((starts + ends) - (start_s + end_s)).round(3)
    best = int(np.lexsort((distances, -overlaps))[0])
    least = _LEAST_OVERLAP * min(end_s - start_s, float(ends[best] - starts[best]))
    return best if overlaps[best] >= max(least, 1e-3) else None
