"""How many windows people must mark until a quick head is good, for each way to choose them and for random choice.

    python benchmarks/labels_saved.py [DATA ...] [--seeds 5] [--page 6] [--folder DIR]

DATA are data sets in BirdCLEF's layout, by default birds and animals of `../shared/data`. A simulated reviewer, who
knows the truth (the recording's label), looks for a label in half of the recordings, drawn by the seed and by whole
sources (column `author`, where there is one); the other half is held out. Labels need four windows in each. The
reviewer begins with one window of the label: with `random`, pages of random windows follow; with all other ways, pages
of those most similar to it until two windows are marked yes and two no, then pages of the way's choice, with a new head
for each. It ends when the head's average precision on the held-out windows reaches 0.9 of that of a head of all labels.
Prints, for all labels and seeds, the mean and the median of the marks, and their sum as a share of random's. Needs
`keras-birds models add birdnet`.
"""

import argparse
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
from retrieval import average_precision, make_store
from threadpoolctl import threadpool_limits

from keras_birds.config import DataConfig
from keras_birds.data.catalog import read_catalog
from keras_birds.embeddings.search import unit
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.embeddings.teach import STRENGTH, How, Standard, fit_head, order_of, standard_of

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
WANTED, LEAST_WINDOWS = 0.9, 4


def precision_of(vectors: np.ndarray, targets: np.ndarray, head) -> float:
    return average_precision(targets[np.argsort(-(vectors @ head.weights), kind="stable")] > 0)


class Reviewer:
    """Marks windows of a pool for one label."""

    def __init__(self, pool: np.ndarray, targets: np.ndarray, standard: Standard, strength: float):
        self.pool, self.targets, self.standard, self.strength = pool, targets, standard, strength

    def marks_needed(self, how: How, page: int, seed: int, is_enough) -> int:
        rng = np.random.default_rng(seed)
        first = int(rng.choice(np.flatnonzero(self.targets > 0)))
        placed = unit(self.pool - self.standard.mean)
        similar = placed @ placed[first]
        marked, asked = [first], 0
        while len(marked) < len(self.pool):
            left = np.setdiff1d(np.arange(len(self.pool)), marked)
            known = self.targets[marked]
            is_taught = min((known > 0).sum(), (known <= 0).sum()) >= 2
            if how == "random" or is_taught:
                scores = (
                    self.head(marked).probabilities(self.pool @ self.head(marked).weights)
                    if is_taught
                    else similar
                )
                order = order_of(scores[left], how, page, seed + asked)
            else:
                order = np.argsort(-similar[left])
            chosen = left[order[:page]].tolist()
            marked, asked = marked + chosen, asked + len(chosen)
            known = self.targets[marked]
            if min((known > 0).sum(), (known <= 0).sum()) >= 2 and is_enough(self.head(marked)):
                return asked
        return asked

    def head(self, marked: list[int]):
        return fit_head(self.pool[marked], self.targets[marked], self.standard, self.strength)


def simulate(
    store: EmbeddingStore, label_of: pd.Series, source_of: pd.Series, args: argparse.Namespace
) -> pd.DataFrame:
    windows, vectors = store.windows(), store.vectors(np.arange(len(store)))
    labels = windows["file"].map(label_of).to_numpy()
    sources = windows["file"].map(source_of).to_numpy()
    rows = []
    for seed in range(args.seeds):
        names = np.unique(sources)
        is_pool = np.isin(sources, np.random.default_rng(seed).permutation(names)[: len(names) // 2])
        standard = standard_of(vectors[is_pool])
        for label in np.unique(labels):
            targets = (labels == label).astype(np.float32)
            parts = [targets[x] for x in (is_pool, ~is_pool)]
            if min(x.sum() for x in parts) < LEAST_WINDOWS:
                continue
            reviewer = Reviewer(vectors[is_pool], parts[0], standard, args.strength)
            held_out = vectors[~is_pool], parts[1]
            best = precision_of(*held_out, reviewer.head(list(range(int(is_pool.sum())))))
            for how in args.ways:

                def is_enough(head, best=best, held_out=held_out):
                    return precision_of(*held_out, head) >= WANTED * best

                marks = reviewer.marks_needed(how, args.page, seed, is_enough)
                rows.append((label, seed, how, marks, best, len(parts[0]), parts[0].sum()))
    return pd.DataFrame(rows, columns=["label", "seed", "how", "marks", "all_labels", "pool", "positives"])


def tell(name: str, table: pd.DataFrame) -> None:
    cases = table.groupby(["label", "seed"])
    first = cases.first()
    pool, positives, best = (first[x].mean() for x in ("pool", "positives", "all_labels"))
    print(
        f"\n{name}: {table['label'].nunique()} labels, {len(first)} cases; pools of {pool:.0f} windows, "
        f"{positives:.0f} with the label; average precision of all labels {best:.3f}"
    )
    totals = table.groupby("how")["marks"].sum()
    print(f"{'way':<12}{'mean':>8}{'median':>8}{'of random':>12}")
    for how, marks in table.groupby("how", sort=False)["marks"]:
        print(
            f"{how:<12}{marks.mean():>8.0f}{marks.median():>8.0f}{totals[how] / totals['random']:>12.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="*", default=[SHARED / "birds", SHARED / "animals"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--page", type=int, default=6)
    parser.add_argument("--strength", type=float, default=STRENGTH)
    parser.add_argument("--model", default="birdnet")
    parser.add_argument("--ways", nargs="+", choices=get_args(How), default=get_args(How))
    parser.add_argument("--folder", type=Path, help="Keeps the embeddings, and uses them again.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, threadpool_limits(1, "blas"):
        folder = args.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        for data in args.data:
            recordings = read_catalog(data, DataConfig()).recordings
            files = recordings["path"].tolist()
            source = recordings["author"].replace("", None).fillna(recordings["path"]).tolist()
            stored = folder / f"{data.name}.emb"
            store = EmbeddingStore(stored) if stored.is_dir() else make_store(stored, args.model, files)
            columns = pd.Series(recordings["label"].tolist(), files), pd.Series(source, files)
            tell(data.name, simulate(store, *columns, args))


if __name__ == "__main__":
    main()
