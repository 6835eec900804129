"""`keras-birds detect STORE`: scores of a head alone, and what it refuses."""

import numpy as np
import pandas as pd
import pytest
from placeholder import TONES_HZ
from test_embed_cli import write_embedding_model


@pytest.fixture
def model(tmp_path):
    return write_embedding_model(tmp_path / "run" / "fold0" / "model.onnx")


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
    sound, stored = (
        pd.read_parquet(tmp_path / x / "scores").sort_values(
            ["file", "start_s", "channel"], ignore_index=True
        )
        for x in ("sound", "stored")
    )
    pd.testing.assert_frame_equal(stored, sound, atol=1e-3, rtol=0)
    assert np.ptp(sound.iloc[:, 4:].to_numpy()) > 0.1
    tables = [pd.read_csv(tmp_path / x / "manifest.csv").sort_values("file") for x in ("sound", "stored")]
    pd.testing.assert_frame_equal(*(x.reset_index(drop=True) for x in tables))
    code, _, err = run_command("detect", store, *more, tmp_path / "stored")
    assert (code, "0 scored, 5 scored before, 1 failed" in err) == (1, True), err


def test_embeddings_of_another_model_or_cut_otherwise_are_refused_and_no_folder_is_left(
    tmp_path, model, write_tone, run_command
):
    store, out = tmp_path / "s.emb", tmp_path / "out"
    sound = write_tone("5.flac")
    assert run_command("embed", sound, "--model", model, "--out", store)[0] == 0
    other = write_embedding_model(tmp_path / "other" / "model.onnx", seed=1)
    for inputs, options, code, said in (
        ((store,), ("--model", other), 1, "are scored by that model, or by a head that learned"),
        (
            (store,),
            ("--model", model, "--overlap", 1),
            2,
            "--overlap must be as the embeddings were made, 0.0",
        ),
        ((store, sound), ("--model", model), 2, "scored by itself, without other INPUTS"),
    ):
        found, printed, err = run_command("detect", *inputs, *options, "--out", out)
        assert (found, printed, said in err, out.exists()) == (code, "", True, False), err
