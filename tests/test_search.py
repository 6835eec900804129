"""Search of a store: exact, by an index, its queries, and the folder of hits."""

import numpy as np
import pytest

from keras_birds.audio.remote import file_fingerprint
from keras_birds.embeddings.search import METRICS, search, shrunk_floats
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.embeddings.writer import StoreWriter
from keras_birds.errors import ConfigError, DataError
from keras_birds.inference.scorer import RecordingScores, RecordingStatus

WINDOWS, SIZE = 50, 32


@pytest.fixture
def vectors():
    """Of 60 recordings, 50 windows each; the first two are copies of each other."""
    found = np.random.default_rng(0).gamma(0.5, 1.0, (60, WINDOWS, SIZE)).astype(np.float16)
    found[1] = found[0]
    return found.astype(np.float32)


@pytest.fixture
def store(vectors, tmp_path):
    return make_store(tmp_path / "s.emb", vectors)


def make_store(folder, vectors, window_s=3.0, hop_s=3.0, names="{}.wav", **settings):
    about = {"size": vectors.shape[-1], "model": "gone", "model_id": "m", "model_sha256": "0", "audio": {}}
    with StoreWriter(folder, about | {"overlap_s": 0.0, "channel": "mix"} | settings) as writer:
        for k, scores in enumerate(vectors):
            file = names.format(k)
            size, mtime_ns = file_fingerprint(file)
            status = RecordingStatus(file, "ok", windows=len(scores), size_bytes=size, mtime_ns=mtime_ns)
            start_s = np.arange(len(scores)) * hop_s
            channel = np.zeros(len(scores), np.int16)
            writer.add(RecordingScores(status, start_s, start_s + window_s, channel, scores))
        writer.finish()
    return EmbeddingStore(folder)


def expected(vectors, queries, metric):
    """Similarities `[window, query]`, as anybody would write them."""
    if metric == "centred":
        vectors, queries = vectors - vectors.mean(axis=0), queries - vectors.mean(axis=0)
    products = vectors @ queries.T
    if metric == "dot":
        return products
    return products / np.linalg.norm(vectors, axis=1)[:, None] / np.linalg.norm(queries, axis=1)


def test_every_float16_is_converted_exactly():
    finite = np.arange(1 << 16).astype(np.uint16).view(np.float16)
    finite = finite[np.isfinite(finite)][None]
    found = shrunk_floats(finite, np.empty((3, finite.shape[1]), np.float32))
    np.testing.assert_array_equal(found * np.float32(2.0**112), finite.astype(np.float32))


@pytest.mark.parametrize("metric", METRICS)
def test_all_windows_are_compared(store, vectors, metric):
    flat, queries = vectors.reshape(-1, SIZE), np.random.default_rng(1).gamma(0.5, 1.0, (3, SIZE))
    similar = expected(flat, queries.astype(np.float32), metric)
    best, found = np.sort(similar.max(axis=1))[::-1][:70], search(store, queries, 70, metric)
    np.testing.assert_allclose(found["similarity"], best, rtol=1e-4)
    np.testing.assert_allclose(similar[found["row"], found["query"]], best, rtol=1e-4)
    assert found["row"].is_unique
    each = search(store, queries, 5, metric, joint=False)
    best = np.sort(similar, axis=0)[::-1][:5].T.ravel()
    np.testing.assert_allclose(similar[each["row"], each["query"]], best, rtol=1e-4)
    assert each["rank"].tolist() == 3 * [1, 2, 3, 4, 5]


def test_few_of_a_recording_and_near_duplicates(store, vectors, tmp_path):
    query = vectors[0, 7:8]
    assert search(store, query, 2)[["file", "start_s", "duplicate_of"]].to_numpy().tolist() == [
        ["0.wav", 21.0, -1],
        ["1.wav", 21.0, 7],
    ]
    all_hits, limited = search(store, query, 3000), search(store, query, 40, per_recording=2)
    first = all_hits[all_hits.groupby("file").cumcount() < 2][:40]
    assert limited["row"].tolist() == first["row"].tolist()
    overlapping = make_store(tmp_path / "o.emb", vectors[2:4], hop_s=1.5)
    hits = search(overlapping, vectors[2, 3:4], 100).set_index("row")
    assert hits["duplicate_of"][3] == -1
    assert hits["duplicate_of"][2] == hits["duplicate_of"][4] == 3
    assert hits["duplicate_of"][53] != 3  # at the same time, in the other recording


def test_queries_that_cannot_be_are_refused(store, vectors):
    for queries, said in ((vectors[0, :, :9], r"\[n, 32\]"), (np.full((1, SIZE), np.nan), "NaN")):
        with pytest.raises(DataError, match=said):
            search(store, queries)
    for wrong in ({"top_k": 0}, {"metric": "l2"}, {"per_recording": 0}):
        with pytest.raises(ConfigError):
            search(store, vectors[0], **wrong)


def test_an_index_finds_the_same_and_is_of_its_store(store, vectors, tmp_path):
    pytest.importorskip("usearch")
    from keras_birds.embeddings.index import SearchIndex, build_index

    with pytest.raises(DataError, match="have an index"):
        SearchIndex(store)
    assert build_index(store).recall > 0.95
    for per_recording in (None, 1):
        found, exact = (
            search(store, vectors[3, :2], 40, per_recording=per_recording, index=x)
            for x in (SearchIndex(store), None)
        )
        assert len(set(found["row"]) & set(exact["row"])) >= 38
    grown = make_store(store.folder, np.concatenate([vectors, vectors[:1] + 1]))
    with pytest.raises(DataError, match="before the store changed"):
        SearchIndex(grown)
