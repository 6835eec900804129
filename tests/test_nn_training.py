"""Training end to end on a small data set: what a run leaves behind, and what an interruption doesn't change.

The network is EfficientNet-B0 with fewer blocks; test_nn_efficientnet.py trains the whole one.
"""

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import keras
import numpy as np
import onnx
import pandas as pd
import pytest
import small_run as small
import soundfile
from sklearn.metrics import roc_auc_score
from small_run import EPOCHS, FOLD_FILES, LABELS, RUN_FILES, Watcher, files_below, interrupt, make_config

import keras_birds
from keras_birds.config import Config
from keras_birds.data.catalog import data_hash, read_catalog
from keras_birds.data.precompute import precompute
from keras_birds.data.reviews import Review, reviews_path, save_review
from keras_birds.errors import AudioError, ConfigError, DataError, ModelError, TrainingError
from keras_birds.models.calibration import Calibration, LabelCalibration
from keras_birds.models.engines import load_engine
from keras_birds.models.keras_engine import load_keras_model
from keras_birds.models.metadata import ModelMetadata
from keras_birds.models.onnx_export import replace_metadata
from keras_birds.nn.efficientnet import BACKBONE
from keras_birds.training.averaging import renew_statistics
from keras_birds.training.callbacks import BEST, CHECKPOINT
from keras_birds.training.oof import OutOfFold
from keras_birds.training.run import open_run, prepare_run
from keras_birds.training.soup import begin_alike
from keras_birds.training.train import train
from keras_birds.training.warm_start import initial_model

QUIET = "data.background_fraction=0.3 data.background"
pytestmark = pytest.mark.usefixtures("shallow_network")


def scores_of(result):
    return OutOfFold.read(result.folder / "oof.parquet")


def validation_loss(oof):
    """As `evaluate` averages it: over batches, each its mean over unmasked targets."""
    scores = oof.scores.astype("float64")
    losses = np.ma.array(-np.where(oof.targets > 0, np.log(scores), np.log1p(-scores)), mask=oof.targets < 0)
    batches = np.split(losses, range(small.BATCH_SIZE, len(losses), small.BATCH_SIZE))
    return np.average([x.mean() for x in batches], weights=[len(x) for x in batches])


def batches_of(dataset):
    """Images and targets of an epoch."""
    return (np.concatenate(x) for x in zip(*(dataset[k] for k in range(len(dataset))), strict=True))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.make_data(tmp_path_factory.mktemp("data") / "birds")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory, shallow_network):
    """An uninterrupted run, what it said, and a copy of its folder as a kill after the first epoch would leave it."""
    out, killed = (tmp_path_factory.mktemp(x) / "first" for x in ("whole", "killed"))

    def copy(lines, done):
        if lines and lines[-1].startswith("epoch 1/") and not killed.exists():
            shutil.copytree(out, killed)
        return False

    watcher = Watcher(copy)
    return train(make_config(), data, "all", out, reporter=watcher), watcher.lines, killed


def test_a_run_directory_holds_what_it_should_and_says_what_it_does(whole, data):
    result, lines, _ = whole
    assert files_below(result.out) == RUN_FILES | {f"fold{k}/{name}" for k in range(2) for name in FOLD_FILES}
    assert lines[0] == f"{result.out}: 72 recordings, 3 labels, 2 folds, 2 left out (see manifest.csv)"
    assert lines[1] == "fold 0: 34 to train on, 36 to validate"
    assert len(lines) == 1 + 2 * (1 + EPOCHS)
    for epoch, line in enumerate(lines[2 : 2 + EPOCHS], 1):
        assert line.startswith(f"epoch {epoch}/{EPOCHS}  loss ")
        assert ("left" in line) == (epoch < EPOCHS)
    assert result.left_out == len(small.BROKEN)
    assert result.mean_macro_auc == pytest.approx(np.mean([x.macro_auc for x in result.folds]))
    config = make_config()
    assert Config.load(result.out / "config.toml") == config
    environment = json.loads((result.out / "environment.json").read_text())
    known = {"backend": keras.config.backend(), "seed": 2, "python": sys.version.split()[0]}
    known["data_hash"] = data_hash(read_catalog(data, config.data))
    assert known.items() <= environment.items()
    assert environment["device"]
    versions = {"keras": keras.__version__, "numpy": np.__version__, "keras-birds": keras_birds.__version__}
    assert versions.items() <= environment["versions"].items()
    split, table = (pd.read_csv(x, dtype=str) for x in (result.out / "split.csv", data / "train.csv"))
    expected = table.assign(path="train_audio/" + table["filename"])[["path", "primary_label", "fold"]]
    assert split[["path", "label", "fold"]].to_numpy().tolist() == expected.to_numpy().tolist()
    manifest, audio = pd.read_csv(result.out / "manifest.csv", keep_default_na=False), data / "train_audio"
    assert len(manifest) == 72
    assert manifest.loc[manifest["status"] != "ok", ["path", "status", "reason"]].to_numpy().tolist() == [
        [str(audio / "wren/20.wav"), "corrupt", "is not audio"],
        [str(audio / "bat/14.wav"), "empty", "is empty (0 bytes)"],
    ]


@pytest.mark.parametrize("k", range(2))
def test_what_a_fold_leaves_agrees(whole, data, k):
    result, config = whole[0].folds[k], make_config()
    history, oof = pd.read_csv(result.folder / "history.csv"), scores_of(result)
    table = pd.read_csv(data / "train.csv")
    table = table[(table["fold"] == k) & ~table["filename"].isin(small.BROKEN)]
    assert list(oof.paths) == [f"train_audio/{x}" for x in table["filename"]]
    assert (oof.scores.shape, oof.scores.dtype) == ((small.NUM_VALIDATE[k], 3), np.float32)
    assert ((oof.scores > 0) & (oof.scores < 1)).all()
    # Masked secondary labels are targets of -1.
    assert oof.targets.tolist() == [
        [1.0 if x == row.primary_label else -1.0 if x in row.secondary_labels else 0.0 for x in LABELS]
        for row in table.itertuples()
    ]
    assert list(history["epoch"]) == list(range(1, EPOCHS + 1))
    columns = ["loss", "val_loss", "val_macro_auc", "learning_rate", "seconds"]
    assert np.isfinite(history[columns]).all(axis=None)
    assert result.seconds == pytest.approx(history["seconds"].sum(), abs=0.06)
    assert history["seconds"].min() > 0
    cosine = (1 + np.cos(np.pi * history["epoch"] / EPOCHS)) / 2
    np.testing.assert_allclose(history["learning_rate"], 1e-6 + (5e-3 - 1e-6) * cosine, rtol=1e-4)
    columns = zip(oof.targets.T, oof.scores.T, strict=True)
    areas = [roc_auc_score(target[target >= 0], score[target >= 0]) for target, score in columns]
    metadata, kept = ModelMetadata.read_onnx(result.folder / "model.onnx"), result.kept_epoch - 1
    assert result.macro_auc == metadata.metrics["macro_auc"] == pytest.approx(np.mean(areas), abs=1e-9)
    assert history["val_macro_auc"][kept] == pytest.approx(result.macro_auc, abs=1e-2)
    assert metadata == ModelMetadata.read_json(result.folder / "model.json")
    assert metadata.model_id == f"first/fold{k}"
    assert (metadata.audio, metadata.mel, tuple(metadata.labels)) == (config.audio, config.mel, LABELS)
    assert metadata.metrics["kept_epoch"] == kept + 1 == np.argmax(history["val_macro_auc"]) + 1
    assert metadata.metrics["epochs"] == result.epochs == EPOCHS
    # The saved model is that of the kept epoch.
    assert np.argmin(abs(history["val_loss"] - validation_loss(oof))) == kept
    assert validation_loss(oof) == pytest.approx(history["val_loss"][kept], rel=1e-4)
    # From the file on disk to the probability, training and prediction agree.
    for engine in ("onnx", "keras"):
        classifier = keras_birds.load(result.folder, engine=engine)
        scores = [classifier.scores(data / path)[list(LABELS)].to_numpy() for path in oof.paths[::9]]
        np.testing.assert_allclose(scores, oof.scores[::9, None], rtol=0, atol=1e-4)
    # A run that begins with this one begins with what the same fold had learnt.
    model = initial_model(make_config(model={"initial": str(whole[0].out)}), k, list(LABELS))
    images = np.random.default_rng(0).uniform(0, 1, (4, 32, 32, 1)).astype(np.float32)
    before = keras.saving.load_model(result.folder / "model.keras")
    np.testing.assert_allclose(model.predict(images), before.predict(images), atol=1e-5)


def test_a_recording_is_scored_whole_and_one_that_vanished_costs_nothing(data, tmp_path):
    folder, out, config = shutil.copytree(data, tmp_path / "birds"), tmp_path / "run", make_config(epochs=1)
    path, away = folder / "train_audio" / "wren" / "3.wav", tmp_path / "away.wav"
    soundfile.write(path, np.random.default_rng(5).normal(0, np.linspace(0, 0.3, 10_000)), small.RATE_HZ)

    def move(lines, done):
        if lines[-1].startswith("epoch 1/") and path.exists():
            path.rename(away)
        return False

    with pytest.raises(AudioError, match=r"wren/3\.wav: "):
        train(config, folder, 0, out, reporter=Watcher(move))
    away.rename(path)
    (fold,) = train(config, folder, 0, out, resume=True).folds
    scores, oof = keras_birds.load(fold.folder).scores(path)[list(LABELS)], scores_of(fold)
    assert (len(scores), fold.epochs) == (2, 1)
    row = oof.paths.index("train_audio/wren/3.wav")
    np.testing.assert_allclose(scores.mean(axis=0), oof.scores[row], atol=1e-4)


def test_an_average_of_the_weights_is_measured_and_kept_also_after_an_interruption(data, whole, tmp_path):
    """The same training as `whole`: the average changes what is measured, not what is learnt."""
    config, run, parted = make_config(keep="last", ema_momentum=0.8), tmp_path / "run", tmp_path / "parted"
    result = train(config, data, 0, run).folds[0]
    assert result.kept_epoch == EPOCHS
    plain, averaged = (pd.read_csv(x.folder / "history.csv") for x in (whole[0].folds[0], result))
    np.testing.assert_allclose(plain["loss"], averaged["loss"], rtol=1e-4)
    assert abs(plain["val_loss"] - averaged["val_loss"]).max() > 1e-3
    assert validation_loss(scores_of(result)) == pytest.approx(averaged["val_loss"].iloc[-1], rel=1e-4)
    interrupt(config, data, 0, parted, lambda lines, done: lines[-1].startswith("epoch 1/") and done == 2)
    assert files_below(parted / "fold0") == {CHECKPOINT}
    resumed = train(config, data, 0, parted, resume=True).folds[0]
    np.testing.assert_allclose(scores_of(resumed).scores, scores_of(result).scores, atol=1e-4)


def test_the_mean_over_the_last_epochs_is_kept_also_after_an_interruption(data, whole, tmp_path):
    """The same training as `whole`; batch normalisation has statistics of the mean's own."""
    config, run, parted = make_config(keep="last", swa_epochs=2), tmp_path / "run", tmp_path / "parted"
    seen, variances = [], {}

    def keep(epoch, logs):
        seen.append([np.array(x) for x in watcher.model.trainable_variables])
        variances.update(
            {x.path: np.array(x) for x in watcher.model.variables if "moving_variance" in x.path}
        )

    watcher = keras.callbacks.LambdaCallback(on_epoch_end=keep)
    result = train(config, data, 0, run, callbacks=[watcher]).folds[0]
    plain, averaged = (pd.read_csv(x.folder / "history.csv") for x in (whole[0].folds[0], result))
    np.testing.assert_allclose(plain["val_loss"], averaged["val_loss"], rtol=1e-4)
    for found, *last in zip(result.model.trainable_variables, *seen[-2:], strict=True):
        np.testing.assert_allclose(np.array(found), np.mean(last, axis=0), rtol=1e-4, atol=1e-6)
    renewed = {x.path: np.array(x) for x in result.model.variables if x.path in variances}
    assert len(renewed) == len(variances)
    assert all(abs(x - variances[path]).max() > 1e-4 for path, x in renewed.items())
    interrupt(config, data, 0, parted, lambda lines, done: lines[-1].startswith("epoch 3/") and done == 2)
    resumed = train(config, data, 0, parted, resume=True).folds[0]
    np.testing.assert_allclose(scores_of(resumed).scores, scores_of(result).scores, atol=1e-5)


def test_background_and_windows_of_reviews_are_trained_on(data, tmp_path):
    folder, background = shutil.copytree(data, tmp_path / "birds"), tmp_path / "background"
    noise, rng = folder / "noise.wav", np.random.default_rng(5)
    (background / "rain").mkdir(parents=True)
    for path in (noise, *(background / "rain" / f"{i}.wav" for i in range(5))):
        soundfile.write(path, rng.normal(0, 0.2, 2 * small.RATE_HZ), small.RATE_HZ)
    (background / "rain" / "broken.wav").write_bytes(b"RIFF nothing")
    # Reviews outside of the data set, and in fold 0's validation set.
    inside = folder / "train_audio" / "wren" / "3.wav"
    for recording, start_s, label in ((noise, 0, "bat"), (noise, 0.5, "bat"), (inside, 0, "wren")):
        said = Review(recording.name, start_s, start_s + 0.5, "wren", 0.5, "run/fold0", "other", label)
        save_review(reviews_path(recording), said)
    settings = {"background": str(background), "background_fraction": 0.3, "reviews": str(folder)}
    off = {"probability": 0.0}
    augments = [{**off, "mixup": off, "background": {"probability": p}} for p in (0.5, 0.0)]
    config, plain = (make_config(settings, augment=x) for x in augments)
    watcher = Watcher()
    run = prepare_run(config, folder, "all", tmp_path / "run", False, watcher)
    assert "3 reviewed windows, 6 of background, 1 of them left out (see background.csv)" in watcher.lines[0]
    assert (pd.read_csv(tmp_path / "run" / "background.csv")["status"] == "ok").sum() == 5
    assert run.folds == (0, 1)
    assert len(run.validation_data(0).epochs.rows) == small.NUM_VALIDATE[0]
    images, targets = batches_of(run.training_data(0))
    unmixed, _ = batches_of(open_run(tmp_path / "run", plain, folder, None).training_data(0))
    # Three tenths of what it trains on are none of the labels; half of it has background mixed in.
    assert (targets == 0).all(axis=1).mean() == pytest.approx(0.3, abs=0.05)
    assert (images != unmixed).any(axis=(1, 2, 3)).mean() == pytest.approx(0.5, abs=0.25)
    # A fold isn't trained on windows of what it is measured on.
    kept = [k for k, x in enumerate(run.reviewed.windows) if Path(x.path).name != "3.wav"]
    assert (run.reviewed_rows(0).tolist(), run.reviewed_rows(1).tolist()) == (kept, [0, 1, 2])
    for image in run.reviewed.images(np.array(kept)):
        (found,) = np.flatnonzero((unmixed == image).all(axis=(1, 2, 3)))
        assert targets[found].tolist() == [0, -1, 1]


def test_a_model_of_all_recordings_is_measured_on_none(data, tmp_path, run_command):
    run, watcher = tmp_path / "run", Watcher()
    (result,) = train(make_config(keep="last", epochs=2), data, "full", run, reporter=watcher).folds
    assert watcher.lines[1] == "fold full: 70 to train on, none to validate"
    assert files_below(run) == RUN_FILES | {f"full/{x}" for x in FOLD_FILES - {"oof.parquet"}}
    assert (result.folder, result.kept_epoch, result.epochs) == (run / "full", 2, 2)
    assert math.isnan(result.macro_auc)
    assert set(result.history) == {"epoch", "loss", "macro_auc", "learning_rate", "seconds"}
    assert keras_birds.load(run).model_id == "run/full"
    code, _, err = run_command("evaluate", run)
    assert (code, "a model of all recordings, which is measured on none" in err) == (1, True)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(whole, data, tmp_path):
    """Killed after an epoch, interrupted in a batch, other threads, and a mel store for the last part."""
    killed = whole[2]
    assert files_below(killed / "fold0") == {CHECKPOINT, BEST}

    def in_third_epoch_of_fold_1(lines, done):
        return any(x.startswith("fold 1") for x in lines) and lines[-1].startswith("epoch 2/") and done == 2

    interrupt(make_config(workers=3), data, "all", killed, in_third_epoch_of_fold_1, resume=True)
    assert files_below(killed / "fold0") == FOLD_FILES
    assert files_below(killed / "fold1") == {CHECKPOINT, BEST}
    before = {x: x.stat().st_mtime_ns for x in (killed / "fold0").iterdir()}
    config = make_config({"store": str(tmp_path / "mels")}, workers=0)
    precompute(list(read_catalog(data, config.data).recordings["path"]), config, tmp_path / "mels")
    watcher = Watcher()
    resumed = train(config, data, "all", killed, resume=True, reporter=watcher)
    assert watcher.lines[1:4] == [
        "fold 0: finished before",
        "fold 1: 36 to train on, 34 to validate",
        "fold 1: goes on after epoch 2",
    ]
    assert {x: x.stat().st_mtime_ns for x in (killed / "fold0").iterdir()} == before
    assert files_below(killed) == files_below(whole[0].out)
    for a, b in zip(whole[0].folds, resumed.folds, strict=True):
        assert (a.fold, a.kept_epoch, a.epochs) == (b.fold, b.kept_epoch, b.epochs)
        assert a.macro_auc == pytest.approx(b.macro_auc, abs=1e-6)
        histories = [pd.read_csv(x.folder / "history.csv").drop(columns="seconds") for x in (a, b)]
        pd.testing.assert_frame_equal(*histories, rtol=1e-5, atol=1e-6)
        oofs = [pd.read_parquet(x.folder / "oof.parquet") for x in (a, b)]
        pd.testing.assert_frame_equal(*oofs, rtol=0, atol=1e-6)


def test_a_finished_run_stays_as_it_is_but_for_what_a_kill_left(whole, data):
    """Between the last rename and the removal of the checkpoints, or in the middle of a write."""
    result, watcher = whole[0], Watcher()
    before = {x: x.stat().st_mtime_ns for x in result.out.rglob("*") if x.is_file()}
    for name in (CHECKPOINT, BEST, f".{CHECKPOINT}.4711.tmp", ".model.keras.4711.keras"):
        (result.folds[0].folder / name).write_bytes(b"half")
    (result.out / ".manifest.csv.4711.tmp").write_bytes(b"half")
    again = train(make_config(), data, range(2), result.out, resume=True, reporter=watcher)
    assert watcher.lines[1:] == [f"fold {k}: finished before" for k in range(2)]
    assert {x: x.stat().st_mtime_ns for x in result.out.rglob("*") if x.is_file()} == before
    assert again == result


def test_where_a_run_may_lie_and_what_it_goes_on_with(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine", "thesis.txt").write_text("keep")
    for out, resume, message in (
        ("mine", False, r"--out must be a new or empty folder\. Received: mine.*--resume"),
        ("mine/thesis.txt", False, "--out must be a new or empty folder"),
        ("mine", True, r"--resume must find a run\. Received: mine"),
        (None, True, r"Received: none in runs/"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(make_config(), data, 0, out, resume)
    assert files_below(tmp_path) == {"mine/thesis.txt"}
    # Without a place a run is named after the time, and the newest is gone on with.
    interrupt(make_config(), data, 0, None)
    (run,) = Path("runs").iterdir()
    assert len(run.name) == len("20250601-101500")
    older = Path(shutil.copytree(run, "runs/older"))
    (older / "config.toml").write_text(make_config(epochs=9).to_toml())
    (run / "config.toml").write_text(make_config().to_toml())
    # The data set may move; settings and recordings must be the same.
    changed = shutil.copytree(data, tmp_path / "moved")
    watcher = interrupt(make_config({"dir": str(changed)}), changed, 0, None, resume=True)
    assert watcher.lines == [f"{run}: 72 recordings, 3 labels, 2 folds, 2 left out (see manifest.csv)"]
    other = make_config({"secondary": "ignore"}, learning_rate=0.01, workers=7, seed=7)
    with pytest.raises(ConfigError) as caught:
        train(other, data, 0, run, resume=True)
    assert str(caught.value) == (
        f"--resume must use the settings that {run} began with. Received: data.secondary is 'ignore', was 'mask'; "
        "training.learning_rate is 0.01, was 0.005; training.seed is 7, was 2; pass the same --config and --set"
    )
    table = (changed / "train.csv").read_text()
    other_label, shorter = table.replace("wren/0.wav,wren", "wren/0.wav,bat"), table[: table.rindex("bat/23")]
    for text, more in ((other_label, b""), (shorter, b""), (table, bytes(100))):
        (changed / "train.csv").write_text(text)
        with (changed / "train_audio/wren/0.wav").open("ab") as file:
            file.write(more)
        with pytest.raises(DataError, match=r"--resume must use the data set that runs/.* began with"):
            train(make_config(), changed, 0, run, resume=True)


def test_what_can_not_be_trained_is_told_before_anything_is_done(whole, data, tmp_path, monkeypatch, offline):
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)
    monkeypatch.chdir(tmp_path)
    Path("first").symlink_to(whole[0].out)
    shutil.copytree(whole[0].out, "part", ignore=shutil.ignore_patterns("fold1"))
    Path("silent").mkdir()
    Path("text").mkdir()
    Path("text", "a.wav").write_text("no sound")
    for settings, fold, error, message, left in (
        ("", [0, -1], ConfigError, r"--fold must be one of 0, 1, all or full\. Received: -1", ()),
        ("", "every", ConfigError, r"--fold must be a number, all or full\. Received: every", ()),
        ("", "full", ConfigError, r"training\.keep must be last\. Received: best", ()),
        ("training.batch_size=36", 0, ConfigError, "the 34 .* fold 0 trains on. Received: 36", RUN_FILES),
        ("audio.decoder=tfio", 0, ConfigError, r"tensorflow-io 0\.37\.1", RUN_FILES - {"manifest.csv"}),
        (f"{QUIET}=silent", 0, DataError, "background must be a folder", ()),
        (f"{QUIET}=text", 0, DataError, "must hold recordings", RUN_FILES | {"background.csv"}),
        ("model.pretrained=imagenet", 0, ModelError, "no network.*--set model.pretrained=none", ()),
        ("model.initial=nowhere", 0, ConfigError, "must be a run's folder. Received: nowhere, without", ()),
        ("model.initial=part", 1, ConfigError, r"must have the folds to train, .*\. Received: .*part", ()),
        ("model.initial=first mel.n_mels=24", 0, ConfigError, "mel.n_mels must be as in .*: 16. .*: 24", ()),
        ("model.initial=first model.head=attention", 0, ConfigError, "as in .*: 'pool'. .*: 'attention'", ()),
        ("model.initial=first folds.strategy=stratified", 0, ConfigError, "folds must be divided as in", ()),
    ):
        watcher, run = Watcher(), tmp_path / "run"
        config = Config.load(whole[0].out / "config.toml", settings.split())
        with pytest.raises(error, match=message):
            train(config, data, fold, run, reporter=watcher)
        assert (run.exists(), files_below(run)) == (bool(left), set(left))
        assert left or watcher.lines == []
        shutil.rmtree(run, ignore_errors=True)


def test_a_loss_that_is_no_number_ends_training_and_other_errors_arrive_as_they_are(data, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    # What a kill leaves before the settings are saved.
    (run / ".config.toml.4711.tmp").write_text("[mod")
    message = r"The loss must be a number\. Received: NaN or Inf loss encountered at batch [1-3], in epoch 1\. Lower"
    with pytest.raises(TrainingError, match=message):
        train(make_config(learning_rate=1e30), data, 0, run)
    assert files_below(run) == RUN_FILES
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=Mock(side_effect=RuntimeError("mine")))
    with pytest.raises(RuntimeError, match=r"^mine$"):
        train(make_config(), data, 0, tmp_path / "other", callbacks=[callback])


def test_a_bfloat16_run_with_a_callback_trains_and_its_models_are_float32(data, tmp_path):
    def end(epoch, logs):
        assert (epoch, set(logs)) == (0, {"loss", "macro_auc", "val_loss", "val_macro_auc"})
        assert "bfloat16" in {x.compute_dtype for x in user.model.get_layer(BACKBONE).layers}
        user.model.stop_training = True

    user = keras.callbacks.LambdaCallback(on_epoch_end=end)
    result = train(make_config(precision="bfloat16"), data, 0, tmp_path / "run", callbacks=[user]).folds[0]
    assert result.epochs == result.kept_epoch == 1
    assert keras.config.dtype_policy().name == "float32"
    assert np.isfinite(result.history["loss"]).tolist() == [True]
    types = {x.data_type for x in onnx.load(result.folder / "model.onnx").graph.initializer}
    assert onnx.TensorProto.BFLOAT16 not in types
    assert not result.model.compiled
    assert {x.compute_dtype for x in result.model.get_layer(BACKBONE).layers} == {"float32"}
    oof = scores_of(result)
    scores = keras_birds.load(result.folder).scores(data / oof.paths[0])[list(LABELS)].to_numpy()
    np.testing.assert_allclose(scores[0], oof.scores[0], rtol=0, atol=1e-4)


def test_a_soup_has_the_mean_of_the_folds_weights_and_statistics_of_its_own(
    whole, data, tmp_path, run_command
):
    run, out = shutil.copytree(whole[0].out, tmp_path / "first"), tmp_path / "soup.onnx"
    # As of a training that found its data by a relative path.
    manifest = run / "manifest.csv"
    manifest.write_text(manifest.read_text().replace(f"{data.parent}/", ""))
    for path in run.glob("fold*/model.onnx"):
        calibration = Calibration("platt", 0.9, 0.1, 0.1, (LabelCalibration(9),) * 3)
        replace_metadata(path, replace(ModelMetadata.read_onnx(path), calibration=calibration))
    before = files_below(run)
    code, said, told = run_command("export", run, "--soup", "--out", out, "--input", "mel")
    assert (code, files_below(run)) == (0, before)
    assert "the folds learnt from random weights" in told
    # So did those that go on from such folds; of weights that are gone nothing is known.
    begun = (begin_alike(make_config(model={"initial": str(x)})) for x in (run, tmp_path))
    assert [*begun] == [False, True]
    assert "Soup of 2 folds: on" in said
    told = ModelMetadata.read_onnx(out)
    assert (told.model_id, told.calibration) == ("first/soup", None)
    soup, *folds = (load_keras_model(x.folder / "model.keras") for x in (whole[0].folds[0], *whole[0].folds))
    soup.set_weights([np.mean(x, axis=0) for x in zip(*(y.get_weights() for y in folds), strict=True)])
    images, _ = batches_of(open_run(run, make_config(), data, None).training_data("full"))
    logits = {}
    for name in ("stale", "own"):
        logits[name] = soup.predict(images, verbose=0)
        renew_statistics(soup, np.split(images, range(4, len(images), 4)))
    found = load_engine(out).logits(images)
    gaps = {name: abs(found - x).mean() for name, x in logits.items()}
    assert gaps["own"] < 0.2 * gaps["stale"]
    for model, more, message in (
        (run / "fold0", (), "needs a run of several folds"),
        (run, ("--prune", "0.5"), "--soup is of folds as they are"),
    ):
        code, _, told = run_command("export", model, "--soup", "--out", tmp_path / "x.onnx", *more)
        assert code in (1, 2)
        assert message in told


def test_a_pruned_fold_is_a_fold_of_a_run_of_its_own(whole, tmp_path, run_command):
    first, run = shutil.copytree(whole[0].out, tmp_path / "first"), tmp_path / "first-pruned-0.5"
    # Its average was over more epochs than a pruned fold has.
    (first / "config.toml").write_text(make_config(keep="last", swa_epochs=3).to_toml())
    command = ("export", first / "fold0", "--prune", "0.5", "--out", tmp_path / "small.onnx")
    code, said, told = run_command(*command)
    assert code == 0
    assert files_below(run) == RUN_FILES | {f"fold0/{x}" for x in FOLD_FILES}
    assert "epoch 1/1" in told
    assert f"{run / 'fold0'}: macro AUC 0." in said
    config = Config.load(run / "config.toml")
    assert (config.model.initial, config.model.prune) == (str(first), 0.5)
    assert ModelMetadata.read_onnx(tmp_path / "small.onnx").model_id == "first-pruned-0.5/fold0"
    weights = [x.dims for x in onnx.load(tmp_path / "small.onnx").graph.initializer]
    depthwise = [x[0] for x in weights if len(x) == 4 and x[1] == 1 and x[2] > 1]
    # The stem, an unexpanded block, and halves of 96, 144 and 144.
    assert sorted(depthwise) == [32, 32, 48, 72, 72]
    with pytest.raises(ModelError, match=r"The labels of .* and the data set must be the same"):
        initial_model(config, 0, ["wren", "bat"])
    # A second export trains nothing.
    code, _, told = run_command(*command)
    assert (code, "fold 0: finished before" in told, "epoch" in told) == (0, True, False)
