"""Heads on a store's embeddings: `detect STORE`, which windows marks speak of, and one model from sound to labels."""

import numpy as np
import pandas as pd
import pytest
from placeholder import TONES_HZ
from test_embed_cli import write_embedding_model
from test_embeddings import found, write

from keras_birds.checksum import sha256_of
from keras_birds.config import Config
from keras_birds.data.reviews import Review, write_reviews
from keras_birds.embeddings.marked import read_marked, unmarked_rows
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.errors import DataError, ModelError
from keras_birds.inference.classifier import load
from keras_birds.progress import Reporter
from keras_birds.training.run import prepare_run


@pytest.fixture
def model(tmp_path):
    return write_embedding_model(tmp_path / "theirs" / "fold0" / "model.onnx")


def scores_of(folder):
    return pd.read_parquet(folder / "scores").sort_values(["file", "start_s", "channel"], ignore_index=True)


def mark(folder, *reviews):
    """Writes marks: a recording, start, end, label, verdict, and who says so."""
    folder.mkdir(exist_ok=True)
    with (folder / "marks.reviews.csv").open("w", errors="surrogateescape", newline="") as file:
        write_reviews(
            file, [Review(str(x), *span, 0.5, "m", *rest[:1], reviewer=y) for x, *span, rest, y in reviews]
        )
    return folder


def test_marks_speak_of_the_window_that_they_overlap_most(tmp_path):
    a, b, c, free = (str(tmp_path / f"{x}.wav") for x in ("a\udce9", "b", "c", "free"))
    write(tmp_path / "s.emb", *(found(x, windows=4) for x in (a, b, free)))
    store = EmbeddingStore(tmp_path / "s.emb")
    width = float(store.windows()["end_s"][0])
    marks = (
        (a, 0, width, "wren", ["right"], ""),
        (a, 1.1 * width, 1.5 * width, "wren", ["wrong"], ""),  # the second window has a wren elsewhere
        (a, 1.2 * width, 1.9 * width, "wren", ["right"], ""),
        (a, 2.4 * width, 3.4 * width, "wren", ["wrong"], ""),  # more of the third window than of the fourth
        (b, 0, width, "wren", ["right"], "ann"),
        (b, 0, width, "wren", ["wrong"], "bob"),
        (b, width, 2 * width, "wren", ["unsure"], ""),
        (b, 2 * width, 3 * width, "bat", ["wrong"], ""),  # a label that is right nowhere
        (c, 0, width, "wren", ["right"], ""),
    )
    catalog = read_marked(store, mark(tmp_path / "hits", *marks))
    assert list(catalog.labels) == ["wren"]
    assert [x.partition(".")[0] for x in catalog.problems] == ["a file's name must be UTF-8"]
    assert catalog.recordings["window"].tolist() == [0, 1, 2]
    assert catalog.known[:, 0].tolist() == [1, 1, 0]
    told = "; ".join(reason for _, reason in catalog.left_out)
    assert "1 reviews left out as unsure; 1 left out, on which reviewers disagree; 1 reviewed windows" in told
    assert "bat left out: it is in none of 1 reviewed windows" in told
    assert unmarked_rows(store, catalog.recordings["path"], 99).tolist() == list(range(4, 12))
    assert len(unmarked_rows(store, [a, b], 2)) == 2
    for reviews, said in (
        (marks[-1:], "1 of windows that it doesn't hold, as "),
        (marks[-2:-1], "none with a label"),
    ):
        with pytest.raises(DataError, match=said):
            read_marked(store, mark(tmp_path / "others", *reviews))


@pytest.mark.parametrize("head", ["pool", "prototypes"])
def test_a_head_and_the_stores_model_are_one_model(head, tmp_path, model, write_tone, run_command):
    disk = tmp_path / "disk"
    for k in range(12):
        write_tone(f"disk/{('low', 'whistle')[k % 2]}/{k}.wav", TONES_HZ[3 * (k % 2)], 4.0, 16_000)
    store, run = tmp_path / "s.emb", tmp_path / "run"
    files = sorted(disk.rglob("*.wav"), key=lambda x: int(x.stem))
    assert run_command("embed", disk, "--model", model, "--out", store)[0] == 0
    marks = [(files[k], 0, 2, "whistle", [("wrong", "right")[k % 2]], "") for k in range(8)]
    learn = ("train", "--embeddings", store, "--reviews", mark(tmp_path / "hits", *marks), "--config", "head")
    disk.rename(tmp_path / "unplugged")
    changes = (f"model.head={head}", "folds.n_folds=2", "training.epochs=40", "data.background_fraction=0.1")
    code, _, err = run_command(*learn, *(y for x in changes for y in ("--set", x)), "--out", run)
    assert (code, "8 windows, 1 labels, 2 folds, 8 of background" in err) == (0, True), err
    more = ("--model", run, "--keep-scores", "--out")
    assert run_command("detect", store, *more, tmp_path / "a")[0] == 0
    (tmp_path / "unplugged").rename(disk)
    assert run_command("detect", disk, *more, tmp_path / "b")[0] == 0
    stored, sound = (scores_of(tmp_path / x) for x in ("a", "b"))
    pd.testing.assert_frame_equal(stored, sound, atol=1e-3, rtol=0)
    is_whistle = stored["file"].str.contains("whistle")
    assert stored["whistle"][is_whistle].min() > stored["whistle"][~is_whistle].max()
    classifier = load(run)
    about = classifier.engines[0].metadata
    assert (about.licence, about.backbone_sha256) == ("Apache-2.0", sha256_of(model))
    np.testing.assert_array_equal(classifier.embeddings(files[0]), load(model).embeddings(files[0]))


def test_labelled_recordings_are_learned_from_as_they_are_stored(tmp_path, model, write_tone, run_command):
    store = tmp_path / "s.emb"
    for k in range(6):
        write_tone(f"disk/{('low', 'high')[k % 2]}/{k}.wav", seconds=3.0 + k, rate=16_000)
    assert run_command("embed", tmp_path / "disk", "--model", model, "--out", store)[0] == 0
    write_tone("disk/low/new.wav", rate=16_000)

    def prepare(data, out, *changes):
        config = Config.load("head", [f"data.embeddings={store}", "folds.n_folds=2", *changes])
        return prepare_run(config, tmp_path / data, 0, tmp_path / out, False, Reporter())

    run = prepare("disk", "run")
    assert (run.left_out, len(run.train_rows("full")), run.background) == (1, 6, None)
    (row,) = (x for x, path in enumerate(run.catalog.recordings["path"]) if path.endswith("3.wav"))
    stored = EmbeddingStore(store)
    vectors = stored.vectors(np.array(stored.rows_of(str(tmp_path / "disk/high/3.wav"))))
    np.testing.assert_array_equal(run.source.windows(np.array([row]))[0], vectors)
    write_tone("others/low/0.wav"), write_tone("others/low/1.wav")
    for data, changes, error, said in (
        ("others", (), DataError, "must hold the data set's recordings. Received: none of 2"),
        ("disk", ("model.pretrained=animals",), ModelError, "which has another file. Say where it is now"),
    ):
        with pytest.raises(error, match=said):
            prepare(data, "none", *changes)
    assert not (tmp_path / "none").exists()


def test_scores_from_a_store_are_those_from_sound_also_of_a_disk_that_is_gone(
    tmp_path, model, write_tone, run_command
):
    disk, store = tmp_path / "disk", tmp_path / "s.emb"
    for k in range(5):
        write_tone(f"disk/{k}.flac", TONES_HZ[k % 4], seconds=float(3 + 4 * k), channels=2)
    (disk / "bad.flac").write_text("no audio")
    cut = ("--overlap", 0.5, "--channel", "all")
    more = ("--model", model, "--keep-scores", "--threshold", 0.1, "--out")
    assert run_command("embed", disk, "--model", model, *cut, "--out", store)[0] == 1
    assert run_command("detect", disk, *cut, *more, tmp_path / "sound")[0] == 1
    disk.rename(tmp_path / "unplugged")
    code, _, err = run_command("detect", store, *more, tmp_path / "stored")
    assert (code, "6 recordings: 5 scored, 1 failed" in err) == (1, True), err
    sound, stored = (scores_of(tmp_path / x) for x in ("sound", "stored"))
    pd.testing.assert_frame_equal(stored, sound, atol=1e-3, rtol=0)
    assert np.ptp(sound.iloc[:, 4:].to_numpy()) > 0.1
    tables = [pd.read_csv(tmp_path / x / "manifest.csv").sort_values("file") for x in ("sound", "stored")]
    pd.testing.assert_frame_equal(*(x.reset_index(drop=True) for x in tables))
    assert "0 scored, 5 scored before" in run_command("detect", store, *more, tmp_path / "stored")[2]


def test_embeddings_of_another_model_or_cut_otherwise_are_refused_and_no_folder_is_left(
    tmp_path, model, write_tone, run_command
):
    store, out = tmp_path / "s.emb", tmp_path / "out"
    sound = write_tone("5.flac")
    assert run_command("embed", sound, "--model", model, "--out", store)[0] == 0
    other = write_embedding_model(tmp_path / "other" / "model.onnx", seed=1)
    for inputs, options, code, said in (
        ((store,), ("--model", other), 1, "are scored by that model, or by a head that learned"),
        ((store,), ("--model", model, "--overlap", 1), 2, "--overlap must be as the embeddings were made"),
        ((store, sound), ("--model", model), 2, "scored by itself, without other INPUTS"),
    ):
        found, printed, err = run_command("detect", *inputs, *options, "--out", out)
        assert (found, printed, said in err, out.exists()) == (code, "", True, False), err
