"""Search of a store: exact, by an index, its queries, and the folder of hits."""

import numpy as np
import pandas as pd
import pytest
import soundfile
from sounds import noise

from keras_birds.embeddings import index
from keras_birds.embeddings.search import METRICS, search, shrunk_floats
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.embeddings.writer import StoreWriter
from keras_birds.errors import ConfigError, DataError
from keras_birds.inference.scorer import RecordingScores, RecordingStatus

SIZE = 32


@pytest.fixture
def vectors():
    """Of 60 recordings, 50 windows each; the first two are copies of each other."""
    found = np.random.default_rng(0).gamma(0.5, 1.0, (60, 50, SIZE)).astype(np.float16)
    found[1] = found[0]
    return found.astype(np.float32)


@pytest.fixture
def store(vectors, tmp_path):
    return make_store(tmp_path / "s.emb", vectors)


def make_store(folder, vectors, hop_s=3.0):
    names = ("model", "model_id", "model_sha256", "decoder", "channel")
    settings = dict.fromkeys(names, "soundfile") | {"size": SIZE, "overlap_s": 3.0 - hop_s, "audio": {}}
    with StoreWriter(folder, settings) as writer:
        for k, scores in enumerate(vectors):
            start_s, channel = np.arange(len(scores)) * hop_s, np.zeros(len(scores), np.int16)
            status = RecordingStatus(f"{k}\udce9.wav", "ok", windows=len(scores))
            writer.add(RecordingScores(status, start_s, start_s + 3, channel, scores))
        writer.finish()
    return EmbeddingStore(folder)


def test_every_float16_is_converted_exactly():
    every = np.arange(1 << 16).astype(np.uint16).view(np.float16)
    finite = every[np.isfinite(every)][None]
    found = shrunk_floats(finite, np.empty((3, finite.shape[1]), np.float32))
    np.testing.assert_array_equal(found * np.float32(2.0**112), finite.astype(np.float32))


@pytest.mark.parametrize("metric", METRICS)
def test_all_windows_are_compared(store, vectors, metric):
    queries = np.random.default_rng(1).gamma(0.5, 1.0, (5, SIZE))
    mean = vectors.mean(axis=(0, 1)) if metric == "centred" else 0
    flat, placed = vectors.reshape(-1, SIZE) - mean, queries - mean
    similar = flat @ placed.T
    if metric != "dot":
        similar /= np.linalg.norm(flat, axis=1)[:, None] * np.linalg.norm(placed, axis=1)
    best, found = np.sort(similar.max(axis=1))[::-1][:70], search(store, queries, 70, metric)
    np.testing.assert_allclose(found["similarity"], best, rtol=1e-4)
    np.testing.assert_allclose(similar[found["row"], found["query"]], best, rtol=1e-4)
    assert found["row"].is_unique
    each = search(store, queries[:2], 5, metric, joint=False)
    best = np.sort(similar[:, :2], axis=0)[::-1][:5].T.ravel()
    np.testing.assert_allclose(similar[each["row"], each["query"]], best, rtol=1e-4)


def test_few_of_a_recording_and_near_duplicates(store, vectors, tmp_path):
    found = search(store, vectors[0, 7:8], 3000)
    assert found[["row", "duplicate_of"]][:2].to_numpy().tolist() == [[7, -1], [57, 7]]
    assert found["row"][found["duplicate_of"] == 7].tolist() == [57], "not the neighbours, which only touch"
    limited = search(store, vectors[0, 7:8], 40, per_recording=2)
    of_file = found["row"].groupby(found["row"] // 50)
    assert limited["row"].tolist() == found["row"][of_file.cumcount() < 2][:40].tolist()
    overlapping = make_store(tmp_path / "o.emb", vectors[2:4], hop_s=1.5)
    of = search(overlapping, vectors[2, 3:4], 100).set_index("row")["duplicate_of"]
    assert (of[3], of[2], of[4]) == (-1, 3, 3)
    assert of[53] != 3  # at the same time, in the other recording
    for queries, said in ((vectors[0, :, :9], r"\[n, 32\]"), (np.full((1, SIZE), np.nan), "NaN")):
        with pytest.raises(DataError, match=said):
            search(store, queries)
    for wrong in ({"top_k": 0}, {"metric": "l2"}, {"per_recording": 0}):
        with pytest.raises(ConfigError):
            search(store, vectors[0], **wrong)


def test_an_index_of_few_components_finds_nearly_the_same_and_is_of_its_store(vectors, tmp_path, monkeypatch):
    vectors *= np.geomspace(2, 0.2, SIZE, dtype=np.float32)
    store = make_store(tmp_path / "s.emb", vectors)
    for name, value in (("_COMPONENTS", 16), ("_CANDIDATES", 400), ("_PRODUCTS_AT_ONCE", 6000)):
        monkeypatch.setattr(index, name, value)
    assert index.build_index(store).recall > 0.95
    for few in (None, 1):
        rows = [
            set(search(store, vectors[3, :3], 40, "centred", few, x)["row"])
            for x in (index.SearchIndex(store), None)
        ]
        assert len(rows[0] & rows[1]) >= 38
    grown = make_store(store.folder, np.concatenate([vectors, vectors[:1]]))
    with pytest.raises(DataError, match="before the store changed"):
        index.SearchIndex(grown)


def test_a_call_is_found_and_cut_out(run_command, animals_dir, tmp_path):
    store, out, bad = tmp_path / "s.emb", tmp_path / "hits", tmp_path / "bad"
    cats, clip = animals_dir / "train_audio" / "cat", tmp_path / "call.flac"
    cat = sorted(cats.iterdir())[5]
    soundfile.write(clip, np.concatenate([noise(4), soundfile.read(cat)[0]]), 32_000)
    run_command("embed", cats, "--model", "animals", "--out", store)
    code, printed, _ = run_command("search", store, clip, "--start", 4, "--top", 9, "--out", out)
    hits = pd.read_csv(out / "hits.csv")
    assert (code, len(hits), (out / "hits.png").is_file(), str(cat) in printed) == (0, 9, True, True)
    assert (hits["file"][0], hits["query_start_s"][0], hits["query_end_s"][0]) == (str(cat), 4, 9)
    assert hits["similarity"][0] > 0.99 > hits["similarity"][1]
    np.testing.assert_allclose(*(soundfile.read(x)[0] for x in (out / hits["clip"][0], cat)), atol=2**-15)
    again = run_command("search", store, "--row", hits["row"][1], "--top", 1)[1]
    assert again.split()[-1] == hits["file"][1]
    bad.mkdir()
    for name, samples in (("a_silent", np.zeros(64_000)), ("b_short", noise(0.3)), ("c_long", noise(101))):
        soundfile.write(bad / f"{name}.wav", samples, 32_000)
    code, _, err = run_command("search", store, bad, clip)
    said = ("silent", "0.5 s long, and it is 0.30 s", "at most 100 s long", "Searching for 2 windows")
    assert (code, [x in y for x, y in zip(said, err.splitlines(), strict=True)]) == (1, 4 * [True])
    assert "what it has from 8.8 s on is 0.20 s" in run_command("search", store, clip, "--start", 8.8)[2]
