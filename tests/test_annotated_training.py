"""Training on windows of annotated recordings."""

import os
import shutil

import numpy as np
import pytest
import soundfile
from small_run import LABELS, RATE_HZ, TONES_HZ, make_config

from keras_birds.audio.clips import sliding_windows, window_spans
from keras_birds.config import AudioConfig, Config
from keras_birds.data.annotated import read_data
from keras_birds.data.folds import make_split
from keras_birds.errors import ConfigError, DataError
from keras_birds.evaluation.evaluate_model import learned_recordings
from keras_birds.inference.classifier import load
from keras_birds.progress import Reporter
from keras_birds.training.embeddings import EmbeddingSource
from keras_birds.training.oof import OutOfFold
from keras_birds.training.run import prepare_run
from keras_birds.training.train import train

N_RECORDINGS, WINDOWS = 9, 8


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """Recordings of eight windows, of which the second and the fourth hold a tone, one without any, and one broken."""
    folder, rng = tmp_path_factory.mktemp("annotated"), np.random.default_rng(0)
    rows = ["file,start_s,end_s,label", "quiet.wav,,,", "broken.wav,0,1,wren"]
    t = np.arange(WINDOWS * RATE_HZ // 2) / RATE_HZ
    for i in range(N_RECORDINGS):
        label, tone_hz = LABELS[i % 3], TONES_HZ[i % 3]
        is_tone = ((t >= 0.55) & (t < 0.95)) | ((t >= 1.55) & (t < 1.95))
        rows += [f"{i}.wav,{at},{at + 0.4:.2f},{label}" for at in (0.55, 1.55)]
        tones = 0.4 * is_tone * np.sin(2 * np.pi * tone_hz * t) + rng.normal(0, 0.05, len(t))
        soundfile.write(folder / f"{i}.wav", tones, RATE_HZ)
    soundfile.write(folder / "quiet.wav", rng.normal(0, 0.05, RATE_HZ // 4), RATE_HZ)
    soundfile.write(folder / "nobody.wav", rng.normal(0, 0.05, RATE_HZ), RATE_HZ)
    (folder / "broken.wav").write_bytes(b"RIFF nothing")
    (folder / "marks.csv").write_text("\n".join(rows))
    return folder


def settings(**data):
    config = make_config({"annotations": "marks.csv", **data}, epochs=1)
    folds = {"strategy": "stratified", "n_folds": 3, "hidden_fraction": 0.0}
    return Config.parse(config.model_dump() | {"folds": folds})


def test_windows_of_a_recording_are_labelled_and_stay_together(annotated, tmp_path):
    catalog = read_data(annotated, settings())
    catalog.require_clean()
    assert len(catalog) == N_RECORDINGS * WINDOWS + 1
    assert list(catalog.labels) == sorted(LABELS)
    assert catalog.recordings["label"][:4].tolist() == ["", "wren", "", "wren"]
    assert catalog.targets(settings().data).sum() == 2 * N_RECORDINGS
    assert catalog.relative_paths[1 :: N_RECORDINGS * WINDOWS - 1] == ["0.wav#t=0.5,1", "quiet.wav#t=0,0.25"]
    told = " ".join(reason for _, reason in catalog.left_out)
    assert "1 recordings without annotations, left out" in told
    assert "can't be read" in told
    split = make_split(catalog, settings().folds)
    folds = catalog.recordings.assign(fold=split.fold).groupby("path")["fold"].nunique()
    assert folds.max() == 1
    assert len(read_data(annotated, settings(unannotated="mask"))) == 2 * N_RECORDINGS
    overlapping = read_data(annotated, settings(window_overlap_s=0.25))
    assert overlapping.recordings["start_s"][:3].tolist() == [0, 0.25, 0.5]
    odd = os.fsdecode(b"\xe9.wav")  # not UTF-8
    shutil.copy(annotated / "0.wav", tmp_path / odd)
    (tmp_path / "marks.csv").write_bytes(os.fsencode(f"file,start_s,end_s,label\n{odd},0.55,0.95,wren"))
    found = read_data(tmp_path, settings())
    assert found.relative_paths[1] == f"{odd}#t=0.5,1"
    assert found.problems == [r"a file's name must be UTF-8. Received: \udce9.wav; rename it"]
    with pytest.raises(DataError, match="annotations must be a table or a folder"):
        read_data(annotated, settings(annotations="gone.csv"))
    with pytest.raises(
        ConfigError, match=r"data.store, of whole recordings, must be empty with data.annotations"
    ):
        settings(store="mel")


def test_a_run_learns_from_windows_and_scores_them_out_of_fold(annotated, tmp_path, shallow_network):
    config = settings()
    run = train(config, annotated, 0, tmp_path / "run")
    oof = OutOfFold.read(run.folds[0].folder / "oof.parquet")
    path = oof.paths[0].partition("#")[0]
    scored = load(run.folds[0].folder).score_file(annotated / path)
    rows = [row for row, x in enumerate(oof.paths) if x.startswith(f"{path}#")]
    np.testing.assert_allclose(oof.scores[rows], scored.scores, atol=1e-4)
    assert oof.recordings.max() + 1 == len({x.partition("#")[0] for x in oof.paths}), (
        "they are drawn together"
    )
    learned = learned_recordings(
        [run.folds[0].folder / "model.onnx"], [f"{i}.wav" for i in range(N_RECORDINGS)]
    )
    validated = {x.partition("#")[0] for x in oof.paths} - {"quiet.wav"}
    assert learned == N_RECORDINGS - len(validated)
    names = [f"{path}#t={a:g},{b:g}" for a, b in zip(scored.start_s, scored.end_s, strict=True)]
    assert [oof.paths[row] for row in rows] == names
    assert oof.targets[rows].sum() == 2


def test_epochs_draw_some_of_the_windows_without_annotations(annotated, tmp_path):
    config = settings(unannotated="background", background_fraction=0.6)
    run = prepare_run(config, annotated, 0, tmp_path / "run", False, Reporter())
    epochs = run.training_data(0).epochs
    assert (run.targets[epochs.rows] == 1).any(axis=1).all()
    assert not (run.targets[epochs.negative_rows] == 1).any()
    assert len(epochs.order(0)) == round(len(epochs.rows) / 0.4)
    with pytest.raises(ConfigError, match=r"for data.annotations, with a data.background_fraction above 0"):
        settings(unannotated="background")


def test_embeddings_of_windows_are_those_of_the_recording(birdnet_model, monkeypatch, tmp_path, write_tone):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model, path = birdnet_model / "model.onnx", str(write_tone("long.wav", seconds=8, rate=48_000))
    audio = AudioConfig(sample_rate_hz=48_000, clip_s=3.0)
    whole, counts = EmbeddingSource(model, audio, [path], Reporter()).windows(np.array([0]))
    assert counts.tolist() == [3]
    found = EmbeddingSource(model, audio, [path] * 3, Reporter(), np.array([2, 0, 9]))
    np.testing.assert_array_equal(found.images(np.array([0, 1])), whole[[2, 0]])
    assert found.usable.tolist() == [True, True, False]
    assert found.reasons[2] == "lies after the recording's end"
    overlapping = EmbeddingSource(model, audio, [path], Reporter(), np.array([2]), overlap_s=1.5)
    np.testing.assert_allclose(overlapping.images(np.array([0])), whole[[1]], atol=1e-3)


@pytest.mark.parametrize("n_samples", [1, 900, 1000, 1099, 1100, 2500, 3000, 3050])
@pytest.mark.parametrize("overlap_s", [0.0, 0.25, 0.9])
def test_windows_are_counted_as_they_are_cut(n_samples, overlap_s):
    audio = AudioConfig(sample_rate_hz=1000, clip_s=1.1)
    found = sliding_windows([np.ones((n_samples, 1), np.float32)], audio, overlap_s)
    assert window_spans(n_samples, audio, overlap_s) == [(x.start_samples, x.n_samples) for x in found]
