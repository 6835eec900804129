"""How well search finds recordings of the same label: every recording as the query, all others ranked by it.

    python benchmarks/retrieval.py [DATA ...] [--models birdnet animals] [--distractors DIR ...]

DATA are data sets in BirdCLEF's layout, by default birds and animals of `../shared/data`; what lies in DIR, by default
its background and soundscapes, is in the store as well and never right. A recording's windows are one joint query, and
a recording ranks by its most similar window, as `keras-birds search CLIP --per-recording 1` does. Recordings that were
cut from one source (column `author`, where there is one) neither help nor harm. Prints the mean average precision over
recordings whose label another has, and how often the first one is right, for each way of comparing. `animals` was
trained on animals: there its figures are no estimate. Needs `keras-birds models add birdnet`.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import keras_birds
from keras_birds.audio.files import find_inputs
from keras_birds.config import DataConfig
from keras_birds.data.catalog import read_catalog
from keras_birds.embeddings.search import METRICS, search
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.embeddings.writer import StoreWriter, store_settings
from keras_birds.inference.embedder import Embedder
from keras_birds.inference.scorer import DEFAULT_OPTIONS, score_recordings

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def average_precision(is_right: np.ndarray) -> float:
    """Of a ranking, the best first; every right one is in it."""
    return float((np.cumsum(is_right) / np.arange(1, len(is_right) + 1))[is_right].mean())


def make_store(folder: Path, name: str, files: list[str]) -> EmbeddingStore:
    ensemble = keras_birds.load(name)
    embedder = Embedder(ensemble)
    with StoreWriter(folder, store_settings(ensemble, DEFAULT_OPTIONS)) as writer:
        for scored in score_recordings(embedder, files):
            writer.add(scored)
        writer.finish()
    return EmbeddingStore(folder)


def measure(store: EmbeddingStore, table: pd.DataFrame, metric: str) -> tuple[int, float, float]:
    """Queries, mean average precision, and how often the first is right; the table has label and source by file."""
    windows = store.windows()
    everything = windows["file"].nunique()
    precisions, firsts = [], []
    for file, (label, source) in table[["label", "source"]].iterrows():
        rows = windows["row"][windows["file"] == file].to_numpy()
        found = search(store, store.vectors(rows), everything, metric, per_recording=1)["file"]
        known = table.reindex(found)
        is_right = (known["label"] == label).to_numpy()[(known["source"] != source).to_numpy()]
        if is_right.any():
            precisions.append(average_precision(is_right))
            firsts.append(is_right[0])
    return len(precisions), float(np.mean(precisions)), float(np.mean(firsts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="*", default=[SHARED / "birds", SHARED / "animals"])
    parser.add_argument("--models", nargs="+", default=["birdnet", "animals"])
    distractors = [SHARED / "background", SHARED / "soundscapes"]
    parser.add_argument("--distractors", type=Path, nargs="*", default=distractors)
    args = parser.parse_args()
    others = (
        list(find_inputs([str(x) for x in args.distractors], None, lambda *_: None))
        if args.distractors
        else []
    )
    print(f"{'data':<12}{'model':<12}{'metric':<12}{'queries':>8}{'mAP':>8}{'first':>8}")
    for data in args.data:
        recordings = read_catalog(data, DataConfig()).recordings
        files = recordings["path"].tolist()
        source = recordings["author"].where(recordings["author"] != "", recordings["path"])
        table = pd.DataFrame({"label": recordings["label"].tolist(), "source": source.tolist()}, index=files)
        for model in args.models:
            with tempfile.TemporaryDirectory() as folder:
                store = make_store(Path(folder) / "s.emb", model, files + others)
                for metric in METRICS:
                    count, precision, first = measure(store, table, metric)
                    row = f"{count:>8}{precision:>8.3f}{first:>8.3f}"
                    print(f"{data.name:<12}{model:<12}{metric:<12}{row}", flush=True)


if __name__ == "__main__":
    main()
