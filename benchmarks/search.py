"""Search of a million windows: time, memory, size on the disk, and an index beside the exact answer.

    python benchmarks/search.py [DATA ...] [--windows 1000000] [--folder DIR] [--no-index]

The store is made of the embeddings of real recordings (DATA: folders, by default birds, soundscapes and animals of
`../shared/data`), each repeated with noise: a window is a real one plus 30 % of another one plus noise of 30 % of its
length; an hour of windows is a recording. Queries are 20 real windows that were left out of it. It takes 2.1 kB of disk
a window of BirdNET, 2.6 kB with the index.

Times are medians over the queries, in one warm process, with the store in the system's page cache, and processor time
beside them. Memory is that of whole `keras-birds search`
commands, sampled every 5 ms: `own` is what the process keeps for itself (RssAnon); libraries and pages of the store
that the system mapped in (RssFile) are told beside it. A query of `--row` loads no model. Needs `keras-birds models add
birdnet`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from contention import processor

import keras_birds
from keras_birds.audio.files import find_inputs
from keras_birds.embeddings.index import SearchIndex, build_index
from keras_birds.embeddings.search import search
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.embeddings.writer import StoreWriter, store_settings
from keras_birds.errors import DataError
from keras_birds.inference.embedder import Embedder
from keras_birds.inference.scorer import DEFAULT_OPTIONS, RecordingScores, RecordingStatus, score_recordings

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
HOUR, QUERIES, TOP = 1200, 20, 100

_CODE = """
import sys, threading, time
from pathlib import Path
peak = {"RssAnon": 0, "RssFile": 0}
def sample():
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in peak:
            peak[name] = max(peak[name], int(value.split()[0]))
def watch():
    while True:
        sample()
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()
from keras_birds.cli.main import main
try:
    main()
finally:
    print(peak["RssAnon"], peak["RssFile"])
"""


def real_embeddings(ensemble, data: list[Path]) -> np.ndarray:
    files = find_inputs([str(x) for x in data], None, lambda *_: None)
    return np.concatenate([x.scores for x in score_recordings(Embedder(ensemble), files)])


def make_store(folder: Path, ensemble, real: np.ndarray, windows: int) -> None:
    rng = np.random.default_rng(0)
    with StoreWriter(folder, store_settings(ensemble, DEFAULT_OPTIONS)) as writer:
        for first in range(0, windows, HOUR):
            count = min(HOUR, windows - first)
            one, other = (real[rng.integers(len(real), size=count)] for _ in range(2))
            noise = rng.standard_normal(one.shape, np.float32)
            noise *= 0.3 * np.linalg.norm(one, axis=1, keepdims=True) / np.sqrt(one.shape[1])
            scores = np.maximum(0, one + np.float32(0.3) * other + noise)
            start_s = 3.0 * np.arange(count)
            status = RecordingStatus(f"hour{first // HOUR:06d}.wav", "ok", windows=count)
            writer.add(RecordingScores(status, start_s, start_s + 3, np.zeros(count, np.int16), scores))
        writer.finish()


def tell_times(what: str, call, queries: np.ndarray) -> None:
    """The median of wall and processor seconds."""
    spent = []
    for query in queries:
        began = time.perf_counter(), time.process_time()
        call(query)
        spent.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    wall, cpu = (statistics.median(x) * 1e3 for x in zip(*spent, strict=True))
    print(f"{what:<28}{wall:8.1f} ms, {cpu:.1f} ms of processors", flush=True)


def tell_memory(what: str, *arguments: object) -> None:
    command = [sys.executable, "-c", _CODE, "search", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    own, mapped = (int(x) / 1024 for x in done.stdout.splitlines()[-1].split())
    print(f"memory, {what:<20}{own:8.0f} MB own, {mapped:.0f} MB of mapped files", flush=True)


def measure_index(store: EmbeddingStore, queries: np.ndarray, size: int) -> None:
    began = time.perf_counter()
    try:
        index = SearchIndex(store)
    except DataError:
        index = build_index(store)
    print(
        f"index built in {time.perf_counter() - began:.0f} s with what is measured there: {index.recall:.3f}"
    )
    more = sum(x.stat().st_size for x in store.folder.rglob("*") if x.is_file()) - size
    print(f"index on the disk           {more / len(store):8.0f} bytes a window")
    found = [set(search(store, x[None], TOP, index=index)["row"]) for x in queries]
    exact = [set(search(store, x[None], TOP)["row"]) for x in queries]
    tell_times("with the index", lambda x: search(store, x[None], TOP, index=index), queries)
    recall = statistics.mean(len(x & y) / TOP for x, y in zip(found, exact, strict=True))
    print(f"recall@{TOP} beside the exact answer  {recall:.3f}", flush=True)
    tell_memory("with the index", store.folder, "--row", 5, "--index")


def prepare(folder: Path, args: argparse.Namespace) -> tuple[EmbeddingStore, np.ndarray]:
    """The store and the queries, made unless they are in the folder."""
    stored, left_out = folder / "million.emb", folder / "queries.npy"
    if not left_out.is_file():
        ensemble = keras_birds.load(args.model)
        real = np.random.default_rng(1).permutation(real_embeddings(ensemble, args.data))
        make_store(stored, ensemble, real[QUERIES:], args.windows)
        np.save(left_out, real[:QUERIES])
        print(f"made of {len(real)} real windows")
    return EmbeddingStore(stored), np.load(left_out)


def measure(folder: Path, args: argparse.Namespace) -> None:
    store, queries = prepare(folder, args)
    files = [x for x in store.folder.rglob("*") if x.is_file() and not x.name.startswith("index.")]
    size = sum(x.stat().st_size for x in files)
    print(f"{len(os.sched_getaffinity(0))} processors, {processor()}")
    print(f"{len(store):,} windows; store {size / len(store):.0f} bytes a window")
    tell_times("exact, first", lambda x: search(store, x[None], TOP), queries[:1])
    tell_times("exact", lambda x: search(store, x[None], TOP), queries[:7])
    tell_times("exact, 20 queries as one", lambda x: search(store, x, TOP), queries[None])
    tell_times("exact, 5 of a recording", lambda x: search(store, x[None], TOP, per_recording=5), queries[:3])
    tell_memory("by --row", store.folder, "--row", 5)
    if args.query:
        tell_memory("by a clip", store.folder, args.query)
    if args.index:
        measure_index(store, queries, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = [SHARED / x for x in ("birds", "soundscapes", "animals")]
    parser.add_argument("data", type=Path, nargs="*", default=default)
    parser.add_argument("--windows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="Keeps the store, and its index, and uses them again.")
    parser.add_argument("--model", default="birdnet")
    parser.add_argument("--query", type=Path, help="A clip to search for, whose memory is told as well.")
    parser.add_argument("--no-index", dest="index", action="store_false")
    args = parser.parse_args()
    if args.folder:
        args.folder.mkdir(exist_ok=True)
        measure(args.folder, args)
        return
    with tempfile.TemporaryDirectory() as temporary:
        measure(Path(temporary), args)


if __name__ == "__main__":
    main()
