"""Training end to end on a small data set: what a run leaves behind, and what an interruption doesn't change.

Two runs of two folds serve most tests. The second begins as a kill would leave the first, goes on with other threads
and from a mel store, and must end as the first did. The network is EfficientNet-B0 with fewer blocks;
test_nn_efficientnet.py trains the whole one, and so do the demo's test and test_train_cli.py.
"""

import json
import math
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import onnx
import pandas as pd
import pytest
import soundfile
from layer_test import as_array
from sklearn.metrics import roc_auc_score
from small_run import (
    BATCH_SIZE,
    BROKEN,
    EPOCHS,
    FOLD_FILES,
    LABELS,
    NUM_VALIDATE,
    RATE_HZ,
    RUN_FILES,
    Watcher,
    begin,
    files_below,
    interrupt,
    make_config,
    make_data,
)

import keras_birds
from keras_birds.config import Config
from keras_birds.data.catalog import data_hash, read_catalog
from keras_birds.data.precompute import precompute
from keras_birds.data.reviews import Review, reviews_path, save_review
from keras_birds.errors import ConfigError, DataError, ModelError, TrainingError
from keras_birds.models.engines import OnnxEngine
from keras_birds.models.metadata import ModelMetadata
from keras_birds.nn.efficientnet import BACKBONE
from keras_birds.nn.losses import MaskedBinaryCrossentropy
from keras_birds.nn.metrics import MaskedMacroAUC
from keras_birds.training.callbacks import MONITOR, Checkpoint, duration
from keras_birds.training.checkpoint import BEST, CHECKPOINT, Progress, load_best, load_checkpoint
from keras_birds.training.oof import OutOfFold
from keras_birds.training.run import open_run, prepare_run
from keras_birds.training.train import compile_model, train
from keras_birds.training.warm_start import initial_model

pytestmark = pytest.mark.usefixtures("shallow_network")


def make_dense(steps_per_epoch=5, **training):
    """A small network, compiled as training compiles its own."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    compile_model(model, make_config(**training), steps_per_epoch)
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "birds")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Where `whole` leaves a copy of its folder after the first epoch: what a kill at that moment would leave."""
    return tmp_path_factory.mktemp("killed") / "first"


@pytest.fixture(scope="module")
def whole(data, killed, tmp_path_factory, shallow_network):
    """An uninterrupted run; read-only."""
    out = tmp_path_factory.mktemp("whole") / "first"

    def copy(lines, done):
        if lines and lines[-1].startswith("epoch 1/") and not killed.exists():
            shutil.copytree(out, killed)
        return False

    watcher = Watcher(copy)
    result = train(make_config(), data, "all", out, reporter=watcher)
    assert result.out == out
    return result, watcher.lines


@pytest.fixture(params=range(2))
def fold(request, whole):
    """A finished fold of the uninterrupted run: its result, history and out-of-fold scores."""
    result = whole[0].folds[request.param]
    return result, pd.read_csv(result.folder / "history.csv"), OutOfFold.read(result.folder / "oof.parquet")


def test_a_run_directory_holds_what_it_should_and_says_what_it_does(whole, data):
    result, lines = whole
    assert files_below(result.out) == RUN_FILES | {f"fold{k}/{name}" for k in range(2) for name in FOLD_FILES}
    assert lines[0] == f"{result.out}: 72 recordings, 3 labels, 2 folds, 2 left out (see manifest.csv)"
    assert lines[1] == "fold 0: 34 to train on, 36 to validate"
    assert len(lines) == 1 + 2 * (1 + EPOCHS)
    for epoch, line in enumerate(lines[2 : 2 + EPOCHS], 1):
        assert line.startswith(f"epoch {epoch}/{EPOCHS}  loss ")
        assert ("left" in line) == (epoch < EPOCHS)

    config = make_config()
    assert Config.load(result.out / "config.toml") == config
    environment = json.loads((result.out / "environment.json").read_text())
    assert environment["backend"] == keras.config.backend()
    assert environment["seed"] == config.training.seed
    assert environment["data_hash"] == data_hash(read_catalog(data, config.data))
    assert environment["device"]
    assert environment["python"] == sys.version.split()[0]
    versions = {"keras": keras.__version__, "numpy": np.__version__, "keras-birds": keras_birds.__version__}
    assert versions.items() <= environment["versions"].items()

    split, table = (pd.read_csv(x, dtype=str) for x in (result.out / "split.csv", data / "train.csv"))
    assert list(split["path"]) == [f"train_audio/{name}" for name in table["filename"]]
    assert list(split["label"]) == list(table["primary_label"])
    assert list(split["fold"]) == list(table["fold"])


def test_what_cannot_be_read_is_left_out_with_its_reason(whole, data):
    manifest = pd.read_csv(whole[0].out / "manifest.csv", keep_default_na=False).set_index("path")
    assert len(manifest) == 72
    assert whole[0].left_out == len(BROKEN)
    wrong, audio = manifest[manifest["status"] != "ok"], data / "train_audio"
    found = {path: (row["status"], row["reason"]) for path, row in wrong.iterrows()}
    assert found == {
        str(audio / "wren/20.wav"): ("corrupt", "is not audio"),
        str(audio / "bat/14.wav"): ("empty", "is empty (0 bytes)"),
    }


def test_out_of_fold_scores_are_of_the_folds_readable_recordings(fold, data):
    result, _, oof = fold
    table = pd.read_csv(data / "train.csv")
    wanted = [x for x in table["filename"][table["fold"] == result.fold] if x not in BROKEN]
    assert list(oof.paths) == [f"train_audio/{x}" for x in wanted]
    assert tuple(oof.labels) == LABELS
    assert oof.scores.shape == oof.targets.shape == (NUM_VALIDATE[result.fold], 3)
    assert oof.scores.dtype == np.float32
    assert ((oof.scores > 0) & (oof.scores < 1)).all()
    # Masked secondary labels are targets of -1.
    table = table.set_index("filename")
    for path, targets in zip(oof.paths, oof.targets, strict=True):
        row = table.loc[path.removeprefix("train_audio/")]
        expected = [
            1.0 if label == row["primary_label"] else -1.0 if label in row["secondary_labels"] else 0.0
            for label in LABELS
        ]
        assert targets.tolist() == expected
    assert (oof.targets == -1).sum() >= 10


def test_history_has_a_row_an_epoch(fold):
    result, history, _ = fold
    assert list(history["epoch"]) == list(range(1, EPOCHS + 1))
    for column in ("loss", "val_loss", "val_macro_auc", "learning_rate", "seconds"):
        assert np.isfinite(history[column]).all()
    assert (history["seconds"] > 0).all()
    assert result.seconds == pytest.approx(history["seconds"].sum())
    assert len(set(history["loss"])) == len(set(history["val_loss"])) == EPOCHS
    settings = make_config().training
    cosine = (1 + np.cos(np.pi * history["epoch"] / EPOCHS)) / 2
    least = settings.final_learning_rate
    expected = least + (settings.learning_rate - least) * cosine
    np.testing.assert_allclose(history["learning_rate"], expected, rtol=1e-4)
    assert history["learning_rate"].iloc[-1] == pytest.approx(1e-6, rel=1e-3)


@pytest.mark.parametrize("warmup_epochs", [0.0, 0.5])
def test_the_learning_rate_rises_then_falls_at_every_step(warmup_epochs):
    steps = 4
    model = make_dense(steps, epochs=3, weight_decay=0.03, warmup_epochs=warmup_epochs)
    assert isinstance(model.optimizer, keras.optimizers.AdamW)
    assert model.optimizer.weight_decay == 0.03
    assert isinstance(model.loss, MaskedBinaryCrossentropy)
    rates = []
    for _ in range(3 * steps + 1):
        rates.append(float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
        logs = model.train_on_batch(np.ones((2, 4)), np.array([[1.0, 0, -1], [0, 1, 1]]), return_dict=True)
    assert set(logs) == {"loss", "macro_auc"}
    warm = int(warmup_epochs * steps)
    fall = [(1 + math.cos(math.pi * k / (3 * steps - warm))) / 2 for k in range(3 * steps - warm + 1)]
    expected = [5e-3 * k / warm for k in range(warm)] + [1e-6 + (5e-3 - 1e-6) * x for x in fall]
    np.testing.assert_allclose(rates, expected, rtol=1e-4, atol=1e-9)


def test_the_metric_of_training_is_the_masked_one():
    model = make_dense()
    targets = np.array([[1, 0, -1], [0, 1, -1], [0, -1, 1.0], [1, 0, 0]], "float32")
    x = np.random.default_rng(0).random((4, 4), np.float32)
    found = model.evaluate(x, targets, verbose=0, return_dict=True)
    metric = MaskedMacroAUC(3, from_logits=True)
    metric.update_state(targets, model.predict(x, verbose=0))
    assert found["macro_auc"] == pytest.approx(float(metric.result()), abs=1e-6)


def test_a_model_says_what_it_is_and_how_good(fold, whole):
    result, _, oof = fold
    areas = []
    for k in range(len(LABELS)):
        used = oof.targets[:, k] >= 0
        areas.append(roc_auc_score(oof.targets[used, k], oof.scores[used, k]))
    metadata, config = ModelMetadata.read_onnx(result.folder / "model.onnx"), make_config()
    assert metadata.metrics["macro_auc"] == pytest.approx(np.mean(areas), abs=1e-9)
    assert result.macro_auc == metadata.metrics["macro_auc"]
    assert whole[0].mean_macro_auc == pytest.approx(np.mean([x.macro_auc for x in whole[0].folds]))
    assert metadata == ModelMetadata.read_json(result.folder / "model.json")
    assert metadata.model_id == f"first/fold{result.fold}"
    assert (metadata.audio, metadata.mel) == (config.audio, config.mel)
    assert tuple(metadata.labels) == LABELS
    assert metadata.metrics["kept_epoch"] == result.kept_epoch
    assert metadata.metrics["epochs"] == result.epochs == EPOCHS


def validation_loss(oof):
    """As `evaluate` averages it: over batches, each its mean over unmasked targets."""
    scores = oof.scores.astype("float64")
    losses = -np.where(oof.targets > 0, np.log(scores), np.log1p(-scores))
    sizes, means = [], []
    for start in range(0, len(scores), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        sizes.append(len(scores[rows]))
        means.append(losses[rows][oof.targets[rows] >= 0].mean())
    return np.average(means, weights=sizes)


def test_the_saved_model_is_that_of_the_kept_epoch(fold):
    result, history, oof = fold
    best = int(np.argmax(history["val_macro_auc"]))
    assert result.kept_epoch == best + 1
    loss = validation_loss(oof)
    assert loss == pytest.approx(history["val_loss"][best], rel=1e-4)
    assert int(np.argmin(np.abs(history["val_loss"] - loss))) == best


def test_the_kept_epoch_is_kept_and_the_last_one_gone_on_with(tmp_path):
    """Of equals the first is best; while the macro-AUC isn't defined, the last."""
    model, other, progress, watcher = make_dense(), make_dense(), Progress(), Watcher()
    aucs = [math.nan, math.nan, 0.5, 0.9, 0.7, 0.9, math.nan]
    for epoch, (macro_auc, kept_epoch) in enumerate(zip(aucs, [1, 2, 3, 4, 4, 4, 4], strict=True), 1):
        model.train_on_batch(np.ones((2, 4)), np.eye(3)[:2])
        model.set_weights([np.full_like(x, epoch) for x in model.get_weights()])
        callback = Checkpoint(tmp_path, progress, 9, "best", watcher)
        callback.set_model(model)
        callback.on_epoch_begin(epoch - 1)
        callback.on_epoch_end(epoch - 1, {"loss": 0.1 * epoch, MONITOR: macro_auc})
        assert watcher.lines[-1].startswith(f"epoch {epoch}/9  loss 0.{epoch}000")
        assert ("best so far" in watcher.lines[-1]) == (kept_epoch == epoch)
        load_best(tmp_path, other)
        assert {x.mean() for x in other.get_weights()} == {kept_epoch}
        progress = load_checkpoint(tmp_path, other)
        assert (progress.epochs, progress.kept_epoch) == (epoch, kept_epoch)
        assert {x.mean() for x in other.get_weights()} == {epoch}
        assert [x["loss"] for x in progress.history] == [0.1 * e for e in range(1, epoch + 1)]
        for a, b in zip(model.optimizer.variables, other.optimizer.variables, strict=True):
            np.testing.assert_array_equal(as_array(a), as_array(b))
    assert int(as_array(other.optimizer.iterations)) == len(aucs)
    assert files_below(tmp_path) == {CHECKPOINT, BEST}


def test_durations_are_told_in_two_units():
    assert [duration(x) for x in (0.4, 59.4, 61, 3599, 7500)] == [
        *("0 s", "59 s", "1 min 01 s", "59 min 59 s", "2 h 05 min")
    ]


def test_a_checkpoint_of_another_network_is_told(tmp_path):
    callback = Checkpoint(tmp_path, Progress(), 9, "last", Watcher())
    callback.set_model(make_dense())
    callback.on_epoch_end(0, {"loss": 1.0})
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    compile_model(other, make_config(), 5)
    with pytest.raises(TrainingError, match=r"checkpoint\.npz: the checkpoint must be of this network"):
        load_checkpoint(tmp_path, other)


def test_an_average_of_the_weights_is_what_is_measured_and_kept(data, whole, tmp_path):
    """The same training as `whole`: the average changes what is measured, not what is learnt."""
    result = train(make_config(keep="last", ema_momentum=0.8), data, 0, tmp_path / "run").folds[0]
    assert result.kept_epoch == EPOCHS
    plain, averaged = (pd.read_csv(x.folder / "history.csv") for x in (whole[0].folds[0], result))
    np.testing.assert_allclose(plain["loss"], averaged["loss"], rtol=1e-4)
    assert abs(plain["val_loss"] - averaged["val_loss"]).max() > 1e-3
    oof = OutOfFold.read(result.folder / "oof.parquet")
    assert validation_loss(oof) == pytest.approx(averaged["val_loss"].iloc[-1], rel=1e-4)
    assert files_below(result.folder) == FOLD_FILES


def test_background_recordings_are_negatives_and_mixed_in(data, tmp_path):
    folder, rng = tmp_path / "background", np.random.default_rng(5)
    (folder / "rain").mkdir(parents=True)
    for i in range(5):
        soundfile.write(folder / "rain" / f"{i}.wav", rng.normal(0, 0.2, RATE_HZ), RATE_HZ)
    (folder / "rain" / "broken.wav").write_bytes(b"RIFF nothing")
    settings = {"background": str(folder), "background_fraction": 0.3}
    config, plain = (
        make_config(settings, augment={"background": {"probability": p}, "mixup": {"probability": 0.0}})
        for p in (0.5, 0.0)
    )
    watcher = Watcher()
    run = prepare_run(config, data, 0, tmp_path / "run", False, watcher)
    assert "6 of background, 1 of them left out (see background.csv)" in watcher.lines[0]
    manifest = pd.read_csv(tmp_path / "run" / "background.csv")
    assert (manifest["status"] == "ok").sum() == 5
    assert len(run.validation_data(0).epochs.rows) == NUM_VALIDATE[0]
    again = open_run(tmp_path / "run", plain, data, None)
    (images, targets), (unmixed, _) = (
        (np.concatenate(x) for x in zip(*(training[k] for k in range(len(training))), strict=True))
        for training in (run.training_data(0), again.training_data(0))
    )
    # Three tenths of what it trains on are none of the labels.
    assert (targets == 0).all(axis=1).mean() == pytest.approx(0.3, abs=0.05)
    # Half of it has background mixed in.
    assert (images != unmixed).any(axis=(1, 2, 3)).mean() == pytest.approx(0.5, abs=0.25)


def test_reviewed_windows_are_trained_on_unless_the_fold_is_measured_on_them(data, tmp_path):
    audio = shutil.copytree(data, tmp_path / "birds") / "train_audio"
    # Both in fold 0's validation set and outside of the data set.
    folder = tmp_path / "birds"
    soundfile.write(folder / "noise.wav", np.random.default_rng(5).normal(0, 0.2, 2 * RATE_HZ), RATE_HZ)
    for recording, label in ((folder / "noise.wav", "bat"), (audio / "wren" / "3.wav", "wren")):
        for k in range(2 if label == "bat" else 1):
            said = Review(recording.name, k / 2, k / 2 + 0.5, "wren", 0.5, "run/fold0", "other", label)
            save_review(reviews_path(recording), said)
    off = {"probability": 0.0}
    config = make_config({"reviews": str(folder)}, augment={**off, "mixup": off})
    watcher = Watcher()
    run = prepare_run(config, folder, "all", tmp_path / "run", False, watcher)
    assert "3 reviewed windows" in watcher.lines[0]
    assert run.folds == (0, 1)
    inside = [x.name == "3.wav" for x in run.reviewed.recordings]
    assert run.reviewed_rows(0).tolist() == [k for k in range(3) if not inside[k]]
    assert run.reviewed_rows(1).tolist() == [0, 1, 2]
    training = run.training_data(0)
    images, targets = (
        np.concatenate(x) for x in zip(*(training[k] for k in range(len(training))), strict=True)
    )
    expected = run.reviewed.images(np.flatnonzero(~np.array(inside)))
    for image, target in zip(expected, run.reviewed.targets[np.flatnonzero(~np.array(inside))], strict=True):
        assert target.tolist() == [0, -1, 1]
        (found,) = np.flatnonzero((images == image).all(axis=(1, 2, 3)))
        np.testing.assert_array_equal(targets[found], target)


@pytest.fixture(scope="module")
def full(data, tmp_path_factory, shallow_network):
    """A model of all recordings with averaged weights: at once, and interrupted in its second epoch and resumed."""
    config = make_config(keep="last", epochs=2, ema_momentum=0.8)
    out, parted, watcher = (
        tmp_path_factory.mktemp("full") / "run",
        tmp_path_factory.mktemp("parted") / "run",
        Watcher(),
    )
    result = train(config, data, "full", out, reporter=watcher)
    assert watcher.lines[1] == "fold full: 70 to train on, none to validate"
    interrupt(
        config, data, "full", parted, lambda lines, done: lines[-1].startswith("epoch 1/") and done == 2
    )
    assert files_below(parted / "full") == {CHECKPOINT}
    watcher = Watcher()
    resumed = train(config, data, "full", parted, resume=True, reporter=watcher)
    assert "fold full: goes on after epoch 1" in watcher.lines
    return result.folds[0], resumed.folds[0]


def test_a_model_of_all_recordings(full, run_command):
    result, resumed = full
    run = result.folder.parent
    assert result.folder == run / "full"
    assert files_below(result.folder) == FOLD_FILES - {"oof.parquet"}
    assert math.isnan(result.macro_auc)
    assert (result.kept_epoch, result.epochs, resumed.epochs) == (2, 2, 2)
    metadata = ModelMetadata.read_onnx(result.folder / "model.onnx")
    assert metadata.model_id == "run/full"
    assert math.isnan(metadata.metrics["macro_auc"])
    assert set(result.history) == {"epoch", "loss", "macro_auc", "learning_rate", "seconds"}
    assert keras_birds.load(run).model_id == "run/full"
    images = np.random.default_rng(0).uniform(0, 1, (4, 32, 32, 1)).astype("float32")
    logits = [OnnxEngine(x.folder / "model.onnx").logits(images) for x in full]
    np.testing.assert_allclose(*logits, atol=1e-4)
    code, _, err = run_command("evaluate", run)
    assert code == 1
    assert "a model of all recordings, which is measured on none" in err


def test_a_model_of_all_recordings_chooses_no_epoch(data, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.keep must be last\. Received: best"):
        train(make_config(), data, "full", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["nothing", "text"])
def test_a_background_without_recordings_is_refused(data, tmp_path, content):
    folder = tmp_path / "background"
    folder.mkdir()
    if content == "text":
        (folder / "a.wav").write_text("no sound")
    config = make_config({"background": str(folder), "background_fraction": 0.3})
    with pytest.raises(DataError, match=r"data\.background must"):
        train(config, data, 0, tmp_path / "run")
    assert (tmp_path / "run").exists() == (content == "text")


@pytest.mark.parametrize("engine", ["onnx", "keras"])
def test_prediction_gives_the_out_of_fold_scores(fold, data, engine):
    """From the file on disk to the probability, training and prediction agree."""
    result, _, oof = fold
    classifier = keras_birds.load(result.folder, engine=engine)
    for path, expected in list(zip(oof.paths, oof.scores, strict=True))[::9]:
        scores = classifier.scores(data / path)[list(LABELS)].to_numpy()
        assert scores.shape == (1, 3)
        np.testing.assert_allclose(scores[0], expected, rtol=0, atol=1e-4)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(whole, data, killed, tmp_path):
    """Killed after an epoch, interrupted in a batch, other threads, and a mel store for the last part."""
    assert files_below(killed / "fold0") == {CHECKPOINT, BEST}

    def in_third_epoch_of_fold_1(lines, done):
        return any(x.startswith("fold 1") for x in lines) and lines[-1].startswith("epoch 2/") and done == 2

    interrupt(make_config(workers=3), data, "all", killed, in_third_epoch_of_fold_1, resume=True)
    assert files_below(killed / "fold0") == FOLD_FILES
    assert files_below(killed / "fold1") == {CHECKPOINT, BEST}
    first_fold = {x: (x.stat().st_mtime_ns, x.stat().st_ino) for x in (killed / "fold0").iterdir()}
    config = make_config({"store": str(tmp_path / "mels")}, workers=0)
    precompute(list(read_catalog(data, config.data).recordings["path"]), config, tmp_path / "mels")
    watcher = Watcher()
    resumed = train(config, data, "all", killed, resume=True, reporter=watcher)
    assert watcher.lines[1:4] == [
        "fold 0: finished before",
        "fold 1: 36 to train on, 34 to validate",
        "fold 1: goes on after epoch 2",
    ]
    assert {x: (x.stat().st_mtime_ns, x.stat().st_ino) for x in (killed / "fold0").iterdir()} == first_fold
    assert files_below(killed) == files_below(whole[0].out)
    for a, b in zip(whole[0].folds, resumed.folds, strict=True):
        assert (a.fold, a.kept_epoch, a.epochs) == (b.fold, b.kept_epoch, b.epochs)
        assert a.macro_auc == pytest.approx(b.macro_auc, abs=1e-6)
        histories = [pd.read_csv(x.folder / "history.csv").drop(columns="seconds") for x in (a, b)]
        pd.testing.assert_frame_equal(*histories, rtol=1e-5, atol=1e-6)
        oofs = [OutOfFold.read(x.folder / "oof.parquet") for x in (a, b)]
        assert oofs[0].paths == oofs[1].paths
        np.testing.assert_array_equal(oofs[0].targets, oofs[1].targets)
        np.testing.assert_allclose(oofs[0].scores, oofs[1].scores, rtol=0, atol=1e-6)


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
    for a, b in zip(again.folds, result.folds, strict=True):
        assert (a.fold, a.folder, a.macro_auc) == (b.fold, b.folder, b.macro_auc)
        assert (a.kept_epoch, a.epochs) == (b.kept_epoch, b.epochs)


def test_a_run_that_was_killed_before_its_settings_were_saved_can_be_begun_again(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.toml.4711.tmp").write_text("[mod")
    begin(make_config(), data, tmp_path / "run")
    assert "config.toml" in files_below(tmp_path / "run")
    assert ".config.toml.4711.tmp" not in files_below(tmp_path / "run")


def test_a_data_set_that_was_moved_can_be_gone_on_with(data, tmp_path):
    begin(make_config(), data, tmp_path / "run")
    moved = shutil.copytree(data, tmp_path / "moved")
    config = make_config({"dir": str(moved)})
    watcher = interrupt(config, moved, 0, tmp_path / "run", lambda lines, done: True, resume=True)
    assert watcher.lines == [
        f"{tmp_path / 'run'}: 72 recordings, 3 labels, 2 folds, 2 left out (see manifest.csv)"
    ]


def test_other_settings_and_changed_data_are_refused(data, tmp_path):
    begin(make_config(), data, tmp_path / "run")
    other = make_config({"secondary": "ignore"}, learning_rate=0.01, workers=7)
    with pytest.raises(ConfigError, match="--resume must use the settings") as caught:
        train(other, data, 0, tmp_path / "run", resume=True)
    message = str(caught.value)
    assert "training.learning_rate is 0.01, was 0.005" in message
    assert "data.secondary is 'ignore', was 'mask'" in message
    assert "workers" not in message
    assert "\n" not in message
    changed = shutil.copytree(data, tmp_path / "changed")
    table = (changed / "train.csv").read_text()
    recording = changed / "train_audio/wren/0.wav"
    for text, more in (
        (table.replace("wren/0.wav,wren", "wren/0.wav,bat"), b""),
        ("".join(table.splitlines(keepends=True)[:-1]), b""),
        (table, bytes(100)),
    ):
        (changed / "train.csv").write_text(text)
        with recording.open("ab") as file:
            file.write(more)
        with pytest.raises(DataError, match=r"--resume must use the data set that .*run began with"):
            train(make_config(), changed, 0, tmp_path / "run", resume=True)


def test_a_folder_that_holds_something_is_refused(data, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    refused = r"--out must be a new or empty folder\. Received: .*mine.*--resume"
    with pytest.raises(ConfigError, match=refused):
        train(make_config(), data, 0, tmp_path / "mine")
    with pytest.raises(ConfigError, match="--out must be a new or empty folder"):
        train(make_config(), data, 0, tmp_path / "mine" / "thesis.txt")
    with pytest.raises(ConfigError, match=r"--resume must find a run\. Received: .*mine"):
        train(make_config(), data, 0, tmp_path / "mine", resume=True)
    assert files_below(tmp_path) == {"mine/thesis.txt"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (-1, r"--fold must be one of 0, 1, all or full\. Received: -1"),
        ([0, 2], r"--fold must be one of 0, 1, all or full\. Received: 2"),
        ("every", r"--fold must be a number, all or full\. Received: every"),
    ],
)
def test_an_unknown_fold_is_refused_before_a_run_is_made(data, tmp_path, wrong, message):
    with pytest.raises(ConfigError, match=message):
        train(make_config(), data, wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_a_place_the_run_is_named_after_the_time_and_resume_takes_the_newest(
    data, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"Received: none in runs/"):
        train(make_config(), data, 0, resume=True)
    begin(make_config(), data, None)
    (run,) = Path("runs").iterdir()
    assert len(run.name) == len("20250601-101500")
    older = Path(shutil.copytree(run, "runs/older"))
    (older / "config.toml").write_text(make_config(epochs=9).to_toml())
    (run / "config.toml").write_text(make_config().to_toml())
    watcher = interrupt(make_config(), data, 0, None, lambda lines, done: True, resume=True)
    assert watcher.lines[0].startswith(f"{run}: 72 recordings")


def test_batches_larger_than_the_fold_are_refused(data, tmp_path):
    message = r"must not exceed the 34 recordings that fold 0 trains on\. Received: 36"
    with pytest.raises(ConfigError, match=message):
        train(make_config(batch_size=36), data, 0, tmp_path / "run")


def test_a_loss_that_is_no_number_ends_training(data, tmp_path):
    message = r"The loss must be a number\. Received: NaN or Inf loss encountered at batch [1-3], in epoch 1\. Lower"
    with pytest.raises(TrainingError, match=message):
        train(make_config(learning_rate=1e30), data, 0, tmp_path / "run")
    assert files_below(tmp_path / "run") == RUN_FILES


def test_other_errors_of_a_callback_arrive_as_they_are(data, tmp_path):
    def fail(batch, logs):
        raise RuntimeError("mine")

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=fail)
    with pytest.raises(RuntimeError, match=r"^mine$"):
        train(make_config(), data, 0, tmp_path / "run", callbacks=[callback])


def test_a_damaged_checkpoint_is_told(whole, data, tmp_path):
    run = tmp_path / "first"
    shutil.copytree(whole[0].out, run)
    for name in FOLD_FILES:
        (run / "fold0" / name).unlink()
    (run / "fold0" / CHECKPOINT).write_bytes(b"PK half a file")
    message = r"checkpoint\.npz: must be a checkpoint that training wrote"
    with pytest.raises(TrainingError, match=message) as caught:
        train(make_config(), data, 0, run, resume=True)
    assert "\n" not in str(caught.value)


def test_pretrained_weights_out_of_reach_are_told_before_anything_is_done(data, tmp_path, offline):
    watcher = Watcher()
    with pytest.raises(ModelError, match=r"no network.*--set model\.pretrained=none"):
        train(make_config(model={"pretrained": "imagenet"}), data, 0, tmp_path / "run", reporter=watcher)
    assert (watcher.lines, watcher.tasks) == ([], set())
    assert not (tmp_path / "run").exists()


def test_recordings_are_checked_with_the_decoder_that_training_uses(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)
    settings = make_config().model_dump(mode="json")
    settings["audio"]["decoder"] = "tfio"
    with pytest.raises(ConfigError, match=r"tensorflow-io 0\.37\.1"):
        train(Config.parse(settings), data, 0, tmp_path / "run")
    assert not (tmp_path / "run" / "manifest.csv").exists()


class Spy(keras.callbacks.Callback):
    """What a user's callback sees, and how it ends a training."""

    def __init__(self):
        super().__init__()
        self.epochs, self.dtypes = [], set()

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append((epoch, set(logs)))
        self.dtypes |= {x.compute_dtype for x in self.model.get_layer(BACKBONE).layers}
        self.model.stop_training = True


def test_a_bfloat16_run_with_a_callback_trains_and_its_models_are_float32(data, tmp_path):
    spy = Spy()
    result = train(make_config(precision="bfloat16"), data, 0, tmp_path / "run", callbacks=[spy]).folds[0]
    assert spy.epochs == [(0, {"loss", "macro_auc", "val_loss", "val_macro_auc"})]
    assert spy.dtypes == {"bfloat16", "float32"} - ({"float32"} if spy.dtypes == {"bfloat16"} else set())
    assert result.epochs == result.kept_epoch == 1
    assert keras.config.dtype_policy().name == "float32"
    assert len(result.history["loss"]) == 1
    assert np.isfinite(result.history["loss"]).all()
    types = {x.data_type for x in onnx.load(result.folder / "model.onnx").graph.initializer}
    assert onnx.TensorProto.BFLOAT16 not in types
    assert onnx.TensorProto.FLOAT in types
    assert result.model is result.model
    assert not result.model.compiled
    assert {x.compute_dtype for x in result.model.get_layer(BACKBONE).layers} == {"float32"}
    oof = OutOfFold.read(result.folder / "oof.parquet")
    scores = keras_birds.load(result.folder).scores(data / oof.paths[0])[list(LABELS)].to_numpy()
    np.testing.assert_allclose(scores[0], oof.scores[0], rtol=0, atol=1e-4)


def test_a_pruned_fold_is_a_fold_of_a_run_of_its_own(whole, tmp_path, run_command):
    shutil.copytree(whole[0].out, tmp_path / "first")
    command = ("export", tmp_path / "first" / "fold0", "--prune", "0.5", "--out", tmp_path / "small.onnx")
    code, said, told = run_command(*command)
    assert code == 0
    run = tmp_path / "first-pruned-0.5"
    assert files_below(run) == RUN_FILES | {f"fold0/{x}" for x in FOLD_FILES}
    assert "epoch 1/1" in told
    assert f"{run / 'fold0'}: macro AUC 0." in said
    config = Config.load(run / "config.toml")
    assert (config.model.initial, config.model.prune) == (str(tmp_path / "first"), 0.5)
    folds = [tmp_path / "first" / "fold0", run / "fold0"]
    widths = [
        keras.saving.load_model(x / "model.keras")
        .get_layer(BACKBONE)
        .get_layer("stage3_block2_depthwise_conv")
        .get_weights()[0]
        .shape[2]
        for x in folds
    ]
    assert widths == [144, 72]
    before, after = (OutOfFold.read(x / "oof.parquet") for x in folds)
    assert before.paths == after.paths
    assert ModelMetadata.read_onnx(tmp_path / "small.onnx").model_id == "first-pruned-0.5/fold0"
    weights = [x.dims for x in onnx.load(tmp_path / "small.onnx").graph.initializer]
    depthwise = [x[0] for x in weights if len(x) == 4 and x[1] == 1 and x[2] > 1]
    # The stem, an unexpanded block, and halves of 96, 144 and 144.
    assert sorted(depthwise) == [32, 32, 48, 72, 72]
    # A second export trains nothing.
    code, _, told = run_command(*command)
    assert (code, "fold 0: finished before" in told, "epoch" in told) == (0, True, False)


@pytest.mark.parametrize("k", range(2))
def test_a_fold_begins_with_what_the_same_fold_had_learnt(whole, k):
    config = make_config(model={"initial": str(whole[0].out)})
    model = initial_model(config, k, list(LABELS))
    images = np.random.default_rng(0).uniform(0, 1, (4, 32, 32, 1)).astype(np.float32)
    before = keras.saving.load_model(whole[0].out / f"fold{k}" / "model.keras")
    np.testing.assert_allclose(model.predict(images), before.predict(images), atol=1e-5)
    with pytest.raises(ModelError, match=r"The labels of .* and the data set must be the same"):
        initial_model(config, k, ["wren", "bat"])


def test_what_can_not_be_begun_with_is_told(whole, data, tmp_path):
    def refused(message, fold=0, **changes):
        config = make_config().model_dump()
        config["model"] |= {"initial": str(whole[0].out)}
        for section, values in changes.items():
            config[section] |= values
        with pytest.raises(ConfigError, match=message):
            train(Config.parse(config), data, fold, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    refused("model.initial must be a run's folder. Received: nowhere, without", model={"initial": "nowhere"})
    refused(r"mel.n_mels must be as in .*: 16. Received: 24", mel={"n_mels": 24})
    refused(r"model.head must be as in .*: 'pool'. Received: 'attention'", model={"head": "attention"})
    refused("folds must be divided as in", folds={"strategy": "stratified", "n_folds": 2})
    refused(r"pretrained must be \"none\" when initial", model={"pretrained": "imagenet"})
    refused("initial must name a trained run when prune", model={"initial": "", "prune": 0.5})
    shutil.copytree(whole[0].out, tmp_path / "part", ignore=shutil.ignore_patterns("fold1"))
    refused(
        r"must have the folds to train\. Received: .*part", fold=1, model={"initial": str(tmp_path / "part")}
    )
