"""A store of embeddings: what was written is read back, whatever happened on the way."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from keras_birds.config import AudioConfig
from keras_birds.embeddings.store import EmbeddingStore, is_store
from keras_birds.embeddings.writer import StoreWriter
from keras_birds.errors import ConfigError, DataError, ModelError
from keras_birds.inference.scorer import RecordingScores, RecordingStatus
from keras_birds.labels import LabelSet
from keras_birds.results import sink
from keras_birds.results.detections import DetectionRules
from keras_birds.results.results import Results, read_detections

SIZE = 6
SETTINGS = {
    **{
        "size": SIZE,
        "model": "m",
        "model_id": "m/1",
        "model_sha256": "0f",
        "overlap_s": 0.0,
        "channel": "mix",
    },
    "decoder": "soundfile",
    "audio": AudioConfig().model_dump(mode="json", exclude={"decoder"}),
}


def found(name, windows=3, value=1.0, status="ok", mtime_ns=1):
    """A recording whose windows' embeddings are value, value + 1, ..."""
    start_s = np.arange(windows) * 5.0
    vectors = value + np.arange(windows, dtype=np.float32)[:, None] * np.ones(SIZE, np.float32)
    recording = RecordingStatus(name, status, windows=windows, size_bytes=100, mtime_ns=mtime_ns)
    return RecordingScores(recording, start_s, start_s + 5, np.ones(windows, np.int16), vectors)


def write(folder, *recordings, settings=SETTINGS):
    with StoreWriter(folder, settings) as writer:
        for x in recordings:
            writer.add(x)
        writer.finish()
    return EmbeddingStore(folder)


def contents(store):
    """File to the mean of each of its embeddings."""
    files, means = store.windows()["file"], store.vectors(np.arange(len(store))).mean(axis=1)
    return {x: means[[y == x for y in files]].tolist() for x in files}


def test_what_was_written_is_read_back_by_row_and_by_block(tmp_path):
    odd = os.fsdecode(b"caf\xe9,\n.wav")
    part = replace(found("b.wav", 2), is_last=False)
    store = write(
        tmp_path / "s.emb", found("a.wav"), part, found("b.wav", 1, 8), found("x", 0, status="corrupt")
    )
    store = write(tmp_path / "s.emb", found("none.wav", 0), found(odd, 1, 9))
    assert (len(store), store.size, store.model, store.model_id) == (7, SIZE, "m", "m/1")
    assert store.audio == AudioConfig()
    assert contents(store) == {"a.wav": [1, 2, 3], "b.wav": [1, 2, 8], odd: [9]}
    blocks = list(store.blocks(2))
    assert [(x.first_row, len(x.vectors)) for x in blocks] == [(0, 2), (2, 2), (4, 2), (6, 1)]
    assert {x.vectors.dtype for x in blocks} == {np.dtype(np.float16)}
    norms = np.concatenate([x.norms for x in blocks])
    np.testing.assert_allclose(norms, np.array([1, 2, 3, 1, 2, 8, 9]) * SIZE**0.5, rtol=1e-6)
    rows = store.windows(np.array([6, 2, 2]))
    wanted = {"row": [6, 2, 2], "file": [odd, "a.wav", "a.wav"], "channel": [1, 1, 1]}
    wanted |= {"start_s": [0.0, 10.0, 10.0], "end_s": [5.0, 15.0, 15.0]}
    assert rows.to_dict("list") == wanted
    assert store.vectors(np.array([6, 2, 2])).tolist() == [[9.0] * SIZE, *[[3.0] * SIZE] * 2]
    assert {x.file: x.status for x in store.recordings}["x"] == "corrupt"
    manifest = pd.read_csv(tmp_path / "s.emb" / "manifest.csv", encoding_errors="replace")
    assert manifest["windows"].tolist() == [3, 1, 0, 0, 1]
    with pytest.raises(DataError, match=r"one of its 7 windows, from 0\. Received: 7"):
        store.vectors(np.array([0, 7]))


def test_rows_of_what_changed_or_failed_on_the_way_are_dropped(tmp_path):
    out, wanted = tmp_path / "s.emb", {"a.wav": [7], "b.wav": [4, 5, 6], "c.wav": [8, 9, 10]}
    write(out, found("a.wav"), found("b.wav", value=4.0), found("c.wav", value=8.0))
    lost, broken = RecordingStatus("c.wav", "missing", "no disk"), RecordingStatus("d.wav", "corrupt")
    with StoreWriter(out, SETTINGS) as writer:
        for x in (found("a.wav", 1, 7.0, mtime_ns=2), replace(found("d.wav"), is_last=False)):
            writer.add(x)
        for x in (broken, lost):
            writer.add(replace(found(x.file, 0), recording=x))
        writer.flush()
        assert contents(EmbeddingStore(out)) == wanted  # whoever reads meanwhile
    assert contents(write(out)) == wanted
    assert len(pd.read_parquet(out / "windows")) == sum(len(np.load(x)) for x in out.glob("*/*.npy")) == 7
    assert len(list(out.glob("*/*"))) == 2


def test_small_shards_are_joined_in_the_end_once(tmp_path, monkeypatch):
    out = tmp_path / "s.emb"
    monkeypatch.setattr(sink, "_SHARD_S", 0.0)
    store = write(out, *(found(f"{k}.wav", 2, k) for k in range(5)), found("4.wav", 1, 9, mtime_ns=2))
    assert contents(store) == {**{f"{k}.wav": [k, k + 1] for k in range(4)}, "4.wav": [9]}
    assert store.windows()["file"].tolist() == [x for k in range(4) for x in [f"{k}.wav"] * 2] + ["4.wav"]
    files = sorted(out.glob("*/*"))
    assert [x.name for x in files] == ["000007.npy", "000007.parquet"]
    write(out)
    assert sorted(out.glob("*/*")) == files


def test_half_written_shards_go_and_no_store_is_mixed_with_another_or_with_results(tmp_path):
    out, other = tmp_path / "s.emb", tmp_path / "results"
    write(out, found("a.wav"))
    for name in ("vectors/.000002.npy.tmp", "vectors/000002.npy", "windows/000002.parquet"):
        (out / name).write_bytes(b"half")
    assert len(write(out, settings={**SETTINGS, "model": "the/same/model"})) == 3
    assert sorted(x.name for x in out.glob("*/*")) == ["000001.npy", "000001.parquet"]
    with pytest.raises(ConfigError, match=r'embeddings of other settings.*model_id is "n", was "m/1"'):
        StoreWriter(out, {**SETTINGS, "model_id": "n"})
    labels = LabelSet(["a"])
    with pytest.raises(ConfigError, match=r"a folder of results.*Received: a folder of embeddings"):
        Results(out, labels, "m", DetectionRules.of(labels), SETTINGS)
    with Results(other, labels, "m", DetectionRules.of(labels), SETTINGS):
        pass
    with pytest.raises(ConfigError, match=r"a folder of embeddings.*Received: a folder of results"):
        StoreWriter(other, SETTINGS)
    with pytest.raises(DataError, match=r"results must be a folder|a folder of results"):
        list(read_detections(out))
    for path in (other, tmp_path / "nothing"):
        with pytest.raises(DataError, match="keras-birds embed"):
            EmbeddingStore(path)
    assert [is_store(x) for x in (out, other, tmp_path)] == [True, False, False]


def test_damaged_shards_and_numbers_that_do_not_fit_are_errors(tmp_path):
    out = tmp_path / "s.emb"
    with pytest.raises(ModelError, match=r"up to 65504\. Received: 1e\+06 in b\.wav"):
        write(out, found("a.wav"), found("b.wav", 1, 1e6))
    write(out, found("a.wav"))
    for name in ("vectors/000001.npy", "windows/000001.parquet"):
        copy = shutil.copytree(out, tmp_path / name.replace("/", "."))
        (copy / name).write_bytes(b"damaged")
        with pytest.raises(DataError, match="must hold the shards that its journal names"):
            list(EmbeddingStore(copy).blocks())
