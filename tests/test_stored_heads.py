"""Heads on a store's embeddings: which windows marks speak of, and one model from sound to labels."""

import numpy as np
import pandas as pd
import pytest
from placeholder import TONES_HZ
from test_embed_cli import SIZE, write_embedding_model
from test_embeddings import found, write

from keras_birds.checksum import sha256_of
from keras_birds.data.reviews import Review, write_reviews
from keras_birds.embeddings.marked import read_marked, unmarked_rows
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.errors import DataError
from keras_birds.inference.classifier import load


def mark(folder, *reviews):
    """Writes marks: a recording, start, end, label, verdict, and who says so."""
    folder.mkdir(exist_ok=True)
    with (folder / "marks.reviews.csv").open("w", newline="") as file:
        write_reviews(
            file, [Review(str(x), *span, 0.5, "m", *rest[:1], reviewer=y) for x, *span, rest, y in reviews]
        )
    return folder


def test_marks_speak_of_the_window_that_they_overlap_most(tmp_path):
    a, b, c, free = (str(tmp_path / f"{x}.wav") for x in ("a", "b", "c", "free"))
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
    assert catalog.recordings["window"].tolist() == [0, 1, 2]
    assert catalog.known[:, 0].tolist() == [1, 1, 0]
    told = "; ".join(reason for _, reason in catalog.left_out)
    assert "1 reviews left out as unsure; 1 left out, on which reviewers disagree; 1 reviewed windows" in told
    assert "bat left out: it is in none of 1 reviewed windows" in told
    assert unmarked_rows(store, catalog.recordings["path"], 99).tolist() == list(range(4, 12))
    assert len(unmarked_rows(store, [a, b], 2)) == 2
    for reviews, said in (
        (marks[-1:], "1 reviews, 1 of windows that it doesn't hold, as "),
        (marks[-2:-1], "none with a label"),
    ):
        with pytest.raises(DataError, match=said):
            read_marked(store, mark(tmp_path / "others", *reviews))


@pytest.fixture(scope="module")
def season(tmp_path_factory):
    """A store of tones by a model of mel images, with marks of the highest as a `whistle`; its disk is gone."""
    import soundfile

    folder = tmp_path_factory.mktemp("season")
    model = write_embedding_model(folder / "run" / "fold0" / "model.onnx")
    (folder / "disk").mkdir()
    t, rng = np.arange(16_000 * 4) / 16_000, np.random.default_rng(0)
    for k in range(12):
        tone = 0.5 * np.sin(2 * np.pi * TONES_HZ[3 * (k % 2)] * t) + rng.normal(0, 0.02, len(t))
        soundfile.write(folder / "disk" / f"{k}.wav", tone, 16_000)
    return folder, model


@pytest.mark.parametrize("head", ["pool", "prototypes"])
def test_a_head_and_the_stores_model_are_one_model(head, season, tmp_path, run_command):
    folder, model = season
    disk, store, run = folder / "disk", tmp_path / "s.emb", tmp_path / "run"
    assert run_command("embed", disk, "--model", model, "--out", store)[0] == 0
    marks = [(disk / f"{k}.wav", 0, 2, "whistle", [("wrong", "right")[k % 2]], "") for k in range(8)]
    learn = ("train", "--embeddings", store, "--reviews", mark(tmp_path / "hits", *marks), "--config", "head")
    disk.rename(folder / "unplugged")
    try:
        changes = (
            f"model.head={head}",
            "folds.n_folds=2",
            "training.epochs=40",
            "data.background_fraction=0.1",
        )
        options = [x for change in changes for x in ("--set", change)]
        code, _, err = run_command(*learn, *options, "--out", run)
        assert (code, "8 windows, 1 labels, 2 folds, 8 of background" in err) == (0, True), err
        assert run_command("detect", store, "--model", run, "--keep-scores", "--out", tmp_path / "a")[0] == 0
    finally:
        (folder / "unplugged").rename(disk)
    assert run_command("detect", disk, "--model", run, "--keep-scores", "--out", tmp_path / "b")[0] == 0
    stored, sound = (
        pd.read_parquet(tmp_path / x / "scores").sort_values(["file", "start_s"], ignore_index=True)
        for x in ("a", "b")
    )
    pd.testing.assert_frame_equal(stored, sound, atol=1e-3, rtol=0)
    is_whistle = stored["file"].str.extract(r"(\d+)\.wav")[0].astype(int) % 2 == 1
    assert stored["whistle"][is_whistle].min() > stored["whistle"][~is_whistle].max()
    classifier = load(run)
    metadata = classifier.engines[0].metadata
    assert (metadata.licence, metadata.backbone_sha256) == ("Apache-2.0", sha256_of(model))
    np.testing.assert_array_equal(
        classifier.embeddings(disk / "0.wav"), load(model).embeddings(disk / "0.wav")
    )
    assert classifier.embedding_size == SIZE
