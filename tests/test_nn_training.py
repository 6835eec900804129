"""Training end to end on a small data set: what a run leaves behind, and what an interruption doesn't change.

Two runs serve most tests. The second begins as a kill would leave the first, goes on with other threads and from a mel
store, and must end as the first did. On torch the network is EfficientNet-B0 with fewer blocks; test_nn_efficientnet.py
trains the whole one, and so do the demo's test and test_train_cli.py. On jax and tensorflow it is the whole one, since
the process that exports there knows no other, and one fold takes the place of two, since they compile for long.
"""

import csv
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
from keras_birds.progress import Reporter
from keras_birds.training.callbacks import MONITOR, Checkpoint
from keras_birds.training.checkpoint import BEST, CHECKPOINT, Progress, load_best, load_checkpoint
from keras_birds.training.fold import compile_model, make_datasets
from keras_birds.training.oof import OutOfFold
from keras_birds.training.train import fold_data, open_prepared, prepare, train
from keras_birds.training.warm_start import initial_model

ON_TORCH = keras.config.backend() == "torch"
torch_only = pytest.mark.skipif(
    not ON_TORCH, reason="does not depend on the backend, or compiles for long elsewhere"
)

LABELS = ("wren", "1139490", "bat")
"""In the taxonomy's order, which isn't the alphabet's."""
TONES_HZ = (500.0, 1200.0, 2600.0)
RATE_HZ = 8000
PER_LABEL_AND_FOLD = 12
BROKEN = {"wren/20.wav": b"RIFF nothing", "bat/14.wav": b""}
"""Both of fold 1: so fold 0 validates in whole batches, of a size that jax and tensorflow compile once."""
NUM_VALIDATE = (36, 34)
"""Recordings of either fold that can be read."""

EPOCHS, BATCH_SIZE = (4 if ON_TORCH else 2), 4
NUM_FOLDS = 2 if ON_TORCH else 1
FOLD_FILES = {"model.keras", "model.onnx", "model.json", "history.csv", "oof.parquet"}
RUN_FILES = {"config.toml", "environment.json", "split.csv", "manifest.csv"}


def make_config(data=(), **training):
    return Config.parse(
        {
            "audio": {"sample_rate_hz": RATE_HZ, "clip_s": 0.5},
            "mel": {
                "n_fft": 256,
                "hop_samples": 128,
                "n_mels": 16,
                "n_mfcc": 8,
                "f_max_hz": 4000,
                "height": 32,
                "width": 32,
            },
            "data": {"secondary": "mask", **dict(data)},
            "folds": {"strategy": "column", "column": "fold"},
            "model": {"pretrained": "none"},
            "training": {
                "epochs": EPOCHS,
                "batch_size": BATCH_SIZE,
                "learning_rate": 5e-3,
                "seed": 2,
                **training,
            },
        }
    )


def make_data(folder):
    """BirdCLEF's layout with a column of folds; two recordings can't be read, a third of them has a second label."""
    rng, rows = np.random.default_rng(0), []
    t = np.arange(RATE_HZ // 2) / RATE_HZ
    for k, (label, tone_hz) in enumerate(zip(LABELS, TONES_HZ, strict=True)):
        (folder / "train_audio" / label).mkdir(parents=True)
        for i in range(2 * PER_LABEL_AND_FOLD):
            name = f"{label}/{i}.wav"
            samples = 0.4 * np.sin(2 * np.pi * tone_hz * rng.uniform(0.9, 1.1) * t) + rng.normal(
                0, 0.1, len(t)
            )
            soundfile.write(folder / "train_audio" / name, samples, RATE_HZ)
            second = [LABELS[(k + 1) % 3]] if i % 3 == 1 else [""]
            rows.append([name, label, second, i // PER_LABEL_AND_FOLD])
    for name, content in BROKEN.items():
        (folder / "train_audio" / name).write_bytes(content)
    write_csv(folder / "train.csv", ["filename", "primary_label", "secondary_labels", "fold"], rows)
    write_csv(folder / "taxonomy.csv", ["primary_label"], [[label] for label in LABELS])
    return folder


def write_csv(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


class Watcher(Reporter):
    """Keeps the lines, and interrupts as Ctrl-C does as soon as `stop(lines, batches done)` holds."""

    def __init__(self, stop=lambda lines, done: False):
        self.lines, self.tasks, self.stop = [], set(), stop

    def log(self, line):
        self.lines.append(line)
        self.check(0)

    def progress(self, what, done, total):
        self.tasks.add(what)
        if what == "Epoch" and total:
            self.check(done)

    def check(self, done):
        if self.stop(self.lines, done):
            raise KeyboardInterrupt


def interrupt(config, data, fold, out, stop, resume=False):
    watcher = Watcher(stop)
    with pytest.raises(KeyboardInterrupt):
        train(config, data, fold, out, resume=resume, reporter=watcher)
    return watcher


def begin(config, data, out):
    """A run that was interrupted before its first fold."""
    return interrupt(config, data, 0, out, lambda lines, done: True)


def make_dense(steps_per_epoch=5, **training):
    """A small network, compiled as training compiles its own."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    compile_model(model, make_config(**training), steps_per_epoch)
    return model


def files_below(folder):
    return {x.relative_to(folder).as_posix() for x in folder.rglob("*") if x.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "birds")


@pytest.fixture(scope="module", autouse=True)
def fewer_blocks(request):
    if ON_TORCH:
        request.getfixturevalue("shallow_network")


@pytest.fixture(scope="module", autouse=True)
def quick_compiler(tmp_path_factory):
    """jax keeps what it compiled on disk, for the second run, and takes less trouble over it."""
    if keras.config.backend() != "jax":
        yield
        return
    import jax

    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("jax")),
        "jax_persistent_cache_min_compile_time_secs": 0.5,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_disable_most_optimizations": True,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Where `whole` leaves a copy of its folder after the first epoch: what a kill at that moment would leave."""
    return tmp_path_factory.mktemp("killed") / "first"


@pytest.fixture(scope="module")
def whole(data, killed, tmp_path_factory):
    """An uninterrupted run; read-only."""
    out = tmp_path_factory.mktemp("whole") / "first"

    def copy(lines, done):
        if lines and lines[-1].startswith("epoch 1/") and not killed.exists():
            shutil.copytree(out, killed)
        return False

    watcher = Watcher(copy)
    result = train(make_config(), data, "all" if NUM_FOLDS > 1 else 0, out, reporter=watcher)
    assert result.out == out
    return result, watcher.lines


@pytest.fixture(scope="module")
def resumed(data, whole, killed, tmp_path_factory):
    """The same run with two interruptions, other numbers of threads and a mel store for the last part; read-only."""
    assert files_below(killed / "fold0") == {CHECKPOINT, BEST}
    folds = "all" if NUM_FOLDS > 1 else 0
    if NUM_FOLDS > 1:
        # In the middle of the second fold's third epoch.
        interrupt(
            make_config(workers=3),
            data,
            folds,
            killed,
            lambda lines, done: (
                any(line.startswith("fold 1") for line in lines)
                and lines[-1].startswith("epoch 2/")
                and done == 2
            ),
            resume=True,
        )
        assert files_below(killed / "fold0") == FOLD_FILES
        assert files_below(killed / "fold1") == {CHECKPOINT, BEST}
    first_fold = {name: (killed / "fold0" / name).stat() for name in files_below(killed / "fold0")}
    store = tmp_path_factory.mktemp("store") / "mels"
    config = make_config({"store": str(store)}, workers=0)
    precompute(list(read_catalog(data, config.data).recordings["path"]), config, store)
    watcher = Watcher()
    result = train(config, data, folds, killed, resume=True, reporter=watcher)
    return result, watcher.lines, first_fold


@pytest.fixture(params=range(NUM_FOLDS))
def fold(request, whole):
    """A finished fold of the uninterrupted run: its result, history and out-of-fold scores."""
    result = whole[0].folds[request.param]
    return result, pd.read_csv(result.folder / "history.csv"), OutOfFold.read(result.folder / "oof.parquet")


def test_a_run_directory_holds_what_it_should_and_nothing_else(whole):
    folds = {f"fold{k}/{name}" for k in range(NUM_FOLDS) for name in FOLD_FILES}
    assert files_below(whole[0].out) == RUN_FILES | folds


def test_a_run_says_what_it_does(whole):
    result, lines = whole
    assert lines[0] == f"{result.out}: 72 recordings, 3 labels, 2 folds, 2 left out (see manifest.csv)"
    assert lines[1] == "fold 0: 34 to train on, 36 to validate"
    assert len(lines) == 1 + NUM_FOLDS * (1 + EPOCHS)
    assert all(
        line.startswith(f"epoch {e}/{EPOCHS}  loss ") for e, line in enumerate(lines[2 : 2 + EPOCHS], 1)
    )


def test_the_settings_and_the_environment_are_saved(whole, data):
    out, config = whole[0].out, make_config()
    assert Config.load(out / "config.toml") == config
    environment = json.loads((out / "environment.json").read_text())
    assert environment["backend"] == keras.config.backend()
    assert environment["seed"] == config.training.seed
    assert environment["data_hash"] == data_hash(read_catalog(data, config.data))
    assert environment["device"]
    assert environment["python"] == sys.version.split()[0]
    versions = environment["versions"]
    assert versions["keras"] == keras.__version__
    assert versions["numpy"] == np.__version__
    assert versions["keras-birds"] == keras_birds.__version__


def test_the_split_is_saved(whole, data):
    table = pd.read_csv(whole[0].out / "split.csv", dtype=str)
    wanted = pd.read_csv(data / "train.csv", dtype=str)
    assert list(table["path"]) == [f"train_audio/{name}" for name in wanted["filename"]]
    assert list(table["label"]) == list(wanted["primary_label"])
    assert list(table["fold"]) == list(wanted["fold"])


def test_what_cannot_be_read_is_left_out_with_its_reason(whole, data):
    manifest = pd.read_csv(whole[0].out / "manifest.csv", keep_default_na=False).set_index("path")
    assert len(manifest) == 72
    assert whole[0].left_out == len(BROKEN)
    wrong = manifest[manifest["status"] != "ok"]
    audio = data / "train_audio"
    assert dict(wrong["status"]) == {
        str(audio / "wren/20.wav"): "corrupt",
        str(audio / "bat/14.wav"): "empty",
    }
    assert dict(wrong["reason"]) == {
        str(audio / "wren/20.wav"): "is not audio",
        str(audio / "bat/14.wav"): "is empty (0 bytes)",
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


def test_masked_secondary_labels_are_targets_of_minus_one(fold, data):
    _, _, oof = fold
    table = pd.read_csv(data / "train.csv").set_index("filename")
    for path, targets in zip(oof.paths, oof.targets, strict=True):
        row = table.loc[path.removeprefix("train_audio/")]
        expected = {
            label: 1.0 if label == row["primary_label"] else -1.0 if label in row["secondary_labels"] else 0.0
            for label in LABELS
        }
        assert dict(zip(LABELS, targets.tolist(), strict=True)) == expected
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


def test_the_learning_rate_falls_at_every_step():
    steps = 5
    model = make_dense(steps, epochs=2, weight_decay=0.03)
    assert isinstance(model.optimizer, keras.optimizers.AdamW)
    assert model.optimizer.weight_decay == 0.03
    assert isinstance(model.loss, MaskedBinaryCrossentropy)
    rates = []
    for _ in range(2 * steps):
        rates.append(float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
        logs = model.train_on_batch(np.ones((2, 4)), np.array([[1.0, 0, -1], [0, 1, 1]]), return_dict=True)
    assert set(logs) == {"loss", "macro_auc"}
    rates.append(float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
    cosine = [(1 + math.cos(math.pi * k / (2 * steps))) / 2 for k in range(2 * steps + 1)]
    np.testing.assert_allclose(rates, [1e-6 + (5e-3 - 1e-6) * x for x in cosine], rtol=1e-4)


def test_the_learning_rate_rises_before_it_falls():
    steps = 4
    model = make_dense(steps, epochs=3, warmup_epochs=0.5)
    rates = []
    for _ in range(3 * steps + 1):
        rates.append(float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
        model.train_on_batch(np.ones((2, 4)), np.array([[1.0, 0, -1], [0, 1, 1]]))
    fall = [(1 + math.cos(math.pi * k / (3 * steps - 2))) / 2 for k in range(3 * steps - 1)]
    expected = [0, 2.5e-3, *[1e-6 + (5e-3 - 1e-6) * x for x in fall]]
    np.testing.assert_allclose(rates, expected, rtol=1e-4, atol=1e-9)


def test_the_models_macro_auc_is_scikit_learns_on_the_out_of_fold_scores(fold, whole):
    result, _, oof = fold
    areas = []
    for k in range(len(LABELS)):
        used = oof.targets[:, k] >= 0
        areas.append(roc_auc_score(oof.targets[used, k], oof.scores[used, k]))
    metadata = ModelMetadata.read_onnx(result.folder / "model.onnx")
    assert metadata.metrics["macro_auc"] == pytest.approx(np.mean(areas), abs=1e-9)
    assert result.macro_auc == metadata.metrics["macro_auc"]
    assert whole[0].mean_macro_auc == pytest.approx(np.mean([x.macro_auc for x in whole[0].folds]))


def test_a_model_says_what_it_is(fold):
    result, _, _ = fold
    metadata, config = ModelMetadata.read_onnx(result.folder / "model.onnx"), make_config()
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
    model, other = make_dense(), make_dense()
    progress = Progress()
    best = {
        1: (math.nan, 1),
        2: (math.nan, 2),
        3: (0.5, 3),
        4: (0.9, 4),
        5: (0.7, 4),
        6: (0.9, 4),
        7: (math.nan, 4),
    }
    for epoch, (macro_auc, kept_epoch) in best.items():
        model.train_on_batch(np.ones((2, 4)), np.eye(3)[:2])
        model.set_weights([np.full_like(x, epoch) for x in model.get_weights()])
        callback = Checkpoint(tmp_path, progress)
        callback.set_model(model)
        callback.on_epoch_begin(epoch - 1)
        callback.on_epoch_end(epoch - 1, {"loss": 0.1 * epoch, MONITOR: macro_auc})
        load_best(tmp_path, other)
        assert {x.mean() for x in other.get_weights()} == {kept_epoch}
        progress = load_checkpoint(tmp_path, other)
        assert (progress.epochs, progress.kept_epoch) == (epoch, kept_epoch)
        assert {x.mean() for x in other.get_weights()} == {epoch}
        assert [x["loss"] for x in progress.history] == [0.1 * e for e in range(1, epoch + 1)]
        for a, b in zip(model.optimizer.variables, other.optimizer.variables, strict=True):
            np.testing.assert_array_equal(as_array(a), as_array(b))
    assert int(as_array(other.optimizer.iterations)) == len(best)
    assert files_below(tmp_path) == {CHECKPOINT, BEST}


@pytest.fixture(scope="module", params=[0.0, 0.8], ids=["last", "averaged"])
def last(request, data, tmp_path_factory):
    """Runs that keep the last epoch: as it is, and as an average of the weights; interrupted and gone on with."""
    config = make_config(keep="last", ema_momentum=request.param)
    whole, parted = (tmp_path_factory.mktemp(name) / "run" for name in ("whole", "parted"))
    result = train(config, data, 0, whole).folds[0]
    interrupt(config, data, 0, parted, lambda lines, done: lines[-1].startswith("epoch 1/") and done == 2)
    assert files_below(parted / "fold0") == {CHECKPOINT}
    return result, train(config, data, 0, parted, resume=True).folds[0]


@torch_only
def test_the_last_epoch_is_kept_and_resumed(last):
    result, resumed = last
    assert result.kept_epoch == resumed.kept_epoch == EPOCHS
    history = pd.read_csv(result.folder / "history.csv")
    oof, again = (OutOfFold.read(x.folder / "oof.parquet") for x in (result, resumed))
    np.testing.assert_allclose(again.scores, oof.scores, atol=1e-5)
    # Validation measures what is kept: with an average, the average.
    assert validation_loss(oof) == pytest.approx(history["val_loss"].iloc[-1], rel=1e-4)
    assert files_below(result.folder) == FOLD_FILES


@torch_only
def test_an_average_of_the_weights_is_what_is_kept(data, tmp_path):
    """The same training twice: the average changes what is measured, not what is learnt."""
    losses = {}
    for momentum in (0.0, 0.8):
        config = make_config(keep="last", ema_momentum=momentum)
        result = train(config, data, 0, tmp_path / str(momentum)).folds[0]
        losses[momentum] = pd.read_csv(result.folder / "history.csv")
    np.testing.assert_allclose(losses[0.0]["loss"], losses[0.8]["loss"], rtol=1e-4)
    assert abs(losses[0.0]["val_loss"] - losses[0.8]["val_loss"]).max() > 1e-3


@torch_only
def test_background_recordings_are_negatives_and_mixed_in(data, tmp_path):
    folder, rng = tmp_path / "background", np.random.default_rng(5)
    (folder / "rain").mkdir(parents=True)
    for i in range(5):
        soundfile.write(folder / "rain" / f"{i}.wav", rng.normal(0, 0.2, RATE_HZ), RATE_HZ)
    (folder / "rain" / "broken.wav").write_bytes(b"RIFF nothing")
    settings = make_config({"background": str(folder), "background_fraction": 0.3}).model_dump(mode="json")
    settings["augment"]["background"]["probability"] = 0.5
    settings["augment"]["mixup"]["probability"] = 0.0
    config, watcher = Config.parse(settings), Watcher()
    result = train(config, data, 0, tmp_path / "run", reporter=watcher).folds[0]
    assert "6 of background, 1 of them left out (see background.csv)" in watcher.lines[0]
    manifest = pd.read_csv(tmp_path / "run" / "background.csv")
    assert (manifest["status"] == "ok").sum() == 5
    oof = OutOfFold.read(result.folder / "oof.parquet")
    assert len(oof.paths) == NUM_VALIDATE[0]
    # Three tenths of what it trained on are none of the labels.
    prepared = open_prepared(tmp_path / "run", config, data, None)
    data_of_fold = fold_data(prepared, config, 0)
    settings["augment"]["background"]["probability"] = 0.0
    (images, targets), (plain, _) = (
        (np.concatenate(x) for x in zip(*(training[k] for k in range(len(training))), strict=True))
        for training in (make_datasets(data_of_fold, x)[0] for x in (config, Config.parse(settings)))
    )
    assert (targets == 0).all(axis=1).mean() == pytest.approx(0.3, abs=0.05)
    # Half of it has background mixed in.
    assert (images != plain).any(axis=(1, 2, 3)).mean() == pytest.approx(0.5, abs=0.25)


@torch_only
def test_reviewed_windows_are_trained_on_unless_the_fold_is_measured_on_them(data, tmp_path):
    """Noise, of which people said that it is a bat, is one from then on."""
    folder, rng = tmp_path / "field", np.random.default_rng(5)
    folder.mkdir()
    noise = folder / "noise.wav"
    soundfile.write(noise, rng.normal(0, 0.2, 10 * RATE_HZ), RATE_HZ)
    for k in range(20):
        said = Review("noise.wav", k / 2, k / 2 + 0.5, "wren", 0.5, "run/fold0", "other", "bat")
        save_review(reviews_path(noise), said)
    config, watcher = make_config({"reviews": str(folder)}), Watcher()
    result = train(config, data, 0, tmp_path / "run", reporter=watcher).folds[0]
    assert "20 reviewed windows" in watcher.lines[0]
    scores = keras_birds.load(result.folder).scores(noise)[list(LABELS)].mean()
    assert scores["bat"] > scores["wren"] + 0.2

    # The same recording in the validation fold: nothing of it is learnt.
    held_out = data / "train_audio" / "wren" / "3.wav"
    marks = reviews_path(held_out)
    try:
        save_review(marks, Review("3.wav", 0.0, 0.5, "wren", 0.5, "run/fold0", "wrong"))
        config = make_config({"reviews": str(data)}, epochs=1)
        prepared = prepare(config, data, 0, tmp_path / "other", False, Watcher())
        assert prepared.reviewed_rows(prepared.split.train_rows(0)).tolist() == []
        assert prepared.reviewed_rows(prepared.split.train_rows(1)).tolist() == [0]
    finally:
        marks.unlink()


@torch_only
def test_a_model_of_all_recordings(data, tmp_path, run_command):
    config, watcher = make_config(keep="last", epochs=2), Watcher()
    result = train(config, data, "full", tmp_path / "run", reporter=watcher)
    (full,) = result.folds
    assert watcher.lines[1] == "fold full: 70 to train on, none to validate"
    assert full.folder == tmp_path / "run" / "full"
    assert files_below(full.folder) == FOLD_FILES - {"oof.parquet"}
    assert math.isnan(full.macro_auc)
    assert (full.kept_epoch, full.epochs) == (2, 2)
    metadata = ModelMetadata.read_onnx(full.folder / "model.onnx")
    assert metadata.model_id == "run/full"
    assert math.isnan(metadata.metrics["macro_auc"])
    assert set(pd.read_csv(full.folder / "history.csv")) == {
        "epoch",
        "loss",
        "macro_auc",
        "learning_rate",
        "seconds",
    }
    assert keras_birds.load(tmp_path / "run").model_id == "run/full"
    again = train(config, data, "full", tmp_path / "run", resume=True)
    assert math.isnan(again.folds[0].macro_auc)
    code, _, err = run_command("evaluate", tmp_path / "run")
    assert code == 1
    assert "a model of all recordings, which is measured on none" in err


@torch_only
@pytest.mark.parametrize("ema_momentum", [0.0, 0.8])
def test_a_model_of_all_recordings_is_resumed(data, tmp_path, ema_momentum):
    config, (whole, parted) = make_config(keep="last", epochs=3, ema_momentum=ema_momentum), "ab"
    expected = train(config, data, "full", tmp_path / whole).folds[0]
    interrupt(
        config,
        data,
        "full",
        tmp_path / parted,
        lambda lines, done: lines[-1].startswith("epoch 1/") and done == 2,
    )
    assert files_below(tmp_path / parted / "full") == {CHECKPOINT}
    watcher = Watcher()
    found = train(config, data, "full", tmp_path / parted, resume=True, reporter=watcher).folds[0]
    assert "fold full: goes on after epoch 1" in watcher.lines
    assert found.epochs == expected.epochs == 3
    images = np.random.default_rng(0).uniform(0, 1, (4, 32, 32, 1)).astype("float32")
    logits = [OnnxEngine(x.folder / "model.onnx").logits(images) for x in (found, expected)]
    np.testing.assert_allclose(*logits, atol=1e-4)


@torch_only
def test_a_model_of_all_recordings_chooses_no_epoch(data, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.keep must be last\. Received: best"):
        train(make_config(), data, "full", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@torch_only
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
    for path, expected in list(zip(oof.paths, oof.scores, strict=True))[::6]:
        scores = classifier.scores(data / path)[list(LABELS)].to_numpy()
        assert scores.shape == (1, 3)
        np.testing.assert_allclose(scores[0], expected, rtol=0, atol=1e-4)


def test_an_interrupted_run_ends_as_an_uninterrupted_one(whole, resumed):
    """Also shows that a second call gives the same, and that neither threads nor a mel store change anything."""
    for a, b in zip(whole[0].folds, resumed[0].folds, strict=True):
        assert (a.fold, a.kept_epoch, a.epochs) == (b.fold, b.kept_epoch, b.epochs)
        assert a.macro_auc == pytest.approx(b.macro_auc, abs=1e-6)
        histories = [pd.read_csv(x.folder / "history.csv").drop(columns="seconds") for x in (a, b)]
        pd.testing.assert_frame_equal(*histories, rtol=1e-5, atol=1e-6)
        oofs = [OutOfFold.read(x.folder / "oof.parquet") for x in (a, b)]
        assert oofs[0].paths == oofs[1].paths
        np.testing.assert_array_equal(oofs[0].targets, oofs[1].targets)
        np.testing.assert_allclose(oofs[0].scores, oofs[1].scores, rtol=0, atol=1e-6)
    assert files_below(resumed[0].out) == files_below(whole[0].out)


def test_an_interrupted_run_says_where_it_goes_on(resumed):
    result, lines, first_fold = resumed
    if NUM_FOLDS > 1:
        assert lines[1:4] == [
            "fold 0: finished before",
            "fold 1: 36 to train on, 34 to validate",
            "fold 1: goes on after epoch 2",
        ]
        now = {name: (result.folds[0].folder / name).stat() for name in FOLD_FILES}
        assert {k: (v.st_mtime_ns, v.st_ino) for k, v in now.items()} == {
            k: (v.st_mtime_ns, v.st_ino) for k, v in first_fold.items()
        }
    else:
        assert lines[2] == "fold 0: goes on after epoch 1"
        assert len(lines) == 3 + EPOCHS - 1


def test_a_finished_run_stays_as_it_is(whole, data):
    result, watcher = whole[0], Watcher()
    before = {x: x.stat().st_mtime_ns for x in result.out.rglob("*") if x.is_file()}
    again = train(make_config(), data, range(NUM_FOLDS), result.out, resume=True, reporter=watcher)
    assert watcher.lines[1:] == [f"fold {k}: finished before" for k in range(NUM_FOLDS)]
    assert {x: x.stat().st_mtime_ns for x in result.out.rglob("*") if x.is_file()} == before
    for a, b in zip(again.folds, result.folds, strict=True):
        assert (a.folder, a.macro_auc, a.kept_epoch, a.epochs) == (
            b.folder,
            b.macro_auc,
            b.kept_epoch,
            b.epochs,
        )


@torch_only
def test_what_a_kill_left_in_a_finished_fold_is_cleared_away(whole, data, tmp_path):
    """Between the last rename and the removal of the checkpoints, or in the middle of a write."""
    run = tmp_path / "first"
    shutil.copytree(whole[0].out, run)
    before = files_below(run)
    leftovers = (
        CHECKPOINT,
        BEST,
        f".{CHECKPOINT}.4711.tmp",
        ".model.keras.4711.keras",
        ".model.onnx.4711.tmp",
    )
    for name in leftovers:
        (run / "fold0" / name).write_bytes(b"half")
    (run / ".manifest.csv.4711.tmp").write_bytes(b"half")
    train(make_config(), data, 0, run, resume=True)
    assert files_below(run) == before


@torch_only
def test_a_run_that_was_killed_before_its_settings_were_saved_can_be_begun_again(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.toml.4711.tmp").write_text("[mod")
    begin(make_config(), data, tmp_path / "run")
    assert "config.toml" in files_below(tmp_path / "run")
    assert ".config.toml.4711.tmp" not in files_below(tmp_path / "run")


@torch_only
def test_a_data_set_that_was_moved_can_be_gone_on_with(data, tmp_path):
    begin(make_config(), data, tmp_path / "run")
    moved = shutil.copytree(data, tmp_path / "moved")
    config = make_config({"dir": str(moved)})
    watcher = interrupt(config, moved, 0, tmp_path / "run", lambda lines, done: True, resume=True)
    assert watcher.lines == [
        f"{tmp_path / 'run'}: 72 recordings, 3 labels, 2 folds, 2 left out (see manifest.csv)"
    ]


@torch_only
def test_other_settings_are_refused_with_their_names(data, tmp_path):
    begin(make_config(), data, tmp_path / "run")
    other = make_config({"secondary": "ignore"}, learning_rate=0.01, workers=7)
    with pytest.raises(ConfigError, match="--resume must use the settings") as caught:
        train(other, data, 0, tmp_path / "run", resume=True)
    message = str(caught.value)
    assert "training.learning_rate is 0.01, was 0.005" in message
    assert "data.secondary is 'ignore', was 'mask'" in message
    assert "workers" not in message
    assert "\n" not in message


@torch_only
@pytest.mark.parametrize("change", ["label", "file", "recording"])
def test_changed_data_are_refused(data, tmp_path, change):
    begin(make_config(), data, tmp_path / "run")
    changed = shutil.copytree(data, tmp_path / "changed")
    table = (changed / "train.csv").read_text()
    if change == "label":
        (changed / "train.csv").write_text(table.replace("wren/0.wav,wren", "wren/0.wav,bat"))
    elif change == "file":
        with (changed / "train_audio/wren/0.wav").open("ab") as file:
            file.write(bytes(100))
    else:
        (changed / "train.csv").write_text("".join(table.splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=r"--resume must use the data set that .*run began with"):
        train(make_config(), changed, 0, tmp_path / "run", resume=True)


@torch_only
def test_a_folder_that_holds_something_is_refused(data, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep")
    with pytest.raises(
        ConfigError, match=r"--out must be a new or empty folder\. Received: .*mine.*--resume"
    ):
        train(make_config(), data, 0, tmp_path / "mine")
    with pytest.raises(ConfigError, match="--out must be a new or empty folder"):
        train(make_config(), data, 0, tmp_path / "mine" / "thesis.txt")
    with pytest.raises(ConfigError, match=r"--resume must find a run\. Received: .*mine"):
        train(make_config(), data, 0, tmp_path / "mine", resume=True)
    assert files_below(tmp_path) == {"mine/thesis.txt"}


@torch_only
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (7, r"--fold must be one of 0, 1, all or full\. Received: 7"),
        (-1, r"--fold must be one of 0, 1, all or full\. Received: -1"),
        ([0, 2], r"--fold must be one of 0, 1, all or full\. Received: 2"),
        ("every", r"--fold must be a number, all or full\. Received: every"),
    ],
)
def test_an_unknown_fold_is_refused_before_a_run_is_made(data, tmp_path, wrong, message):
    with pytest.raises(ConfigError, match=message):
        train(make_config(), data, wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@torch_only
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


@torch_only
def test_batches_larger_than_the_fold_are_refused(data, tmp_path):
    with pytest.raises(
        ConfigError, match=r"must not exceed the 34 recordings that fold 0 trains on\. Received: 36"
    ):
        train(make_config(batch_size=36), data, 0, tmp_path / "run")


@torch_only
def test_a_loss_that_is_no_number_ends_training(data, tmp_path):
    with pytest.raises(
        TrainingError, match=r"The loss must be a number\. Received: nan in epoch 1, batch [2-4]\."
    ):
        train(make_config(learning_rate=1e30), data, 0, tmp_path / "run")
    assert files_below(tmp_path / "run") == RUN_FILES


@torch_only
def test_a_damaged_checkpoint_is_told(whole, data, tmp_path):
    run = tmp_path / "first"
    shutil.copytree(whole[0].out, run)
    for name in FOLD_FILES:
        (run / "fold0" / name).unlink()
    (run / "fold0" / CHECKPOINT).write_bytes(b"PK half a file")
    with pytest.raises(
        TrainingError, match=r"checkpoint\.npz: must be a checkpoint that training wrote"
    ) as caught:
        train(make_config(), data, 0, run, resume=True)
    assert "\n" not in str(caught.value)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No way out: a proxy on a port that nobody listens on, and empty caches."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))


@torch_only
def test_pretrained_weights_out_of_reach_are_told_before_anything_is_done(data, tmp_path, offline):
    config = Config.parse({**make_config().model_dump(mode="json"), "model": {"pretrained": "imagenet"}})
    watcher = Watcher()
    with pytest.raises(ModelError, match=r"no network.*--set model\.pretrained=none"):
        train(config, data, 0, tmp_path / "run", reporter=watcher)
    assert (watcher.lines, watcher.tasks) == ([], set())
    assert not (tmp_path / "run").exists()


@torch_only
def test_recordings_are_checked_with_the_decoder_that_training_uses(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)
    settings = make_config().model_dump(mode="json")
    settings["audio"]["decoder"] = "tfio"
    with pytest.raises(ConfigError, match=r"tensorflow-io 0\.37\.1"):
        train(Config.parse(settings), data, 0, tmp_path / "run")
    assert not (tmp_path / "run" / "manifest.csv").exists()


@torch_only
def test_a_bfloat16_run_trains_and_its_models_are_float32(whole, data, tmp_path):
    result = train(make_config(precision="bfloat16"), data, 0, tmp_path / "run").folds[0]
    assert keras.config.dtype_policy().name == "float32"
    losses, exact = (pd.read_csv(x.folder / "history.csv")["loss"] for x in (result, whole[0].folds[0]))
    assert np.isfinite(losses).all()
    # The same steps in another precision: near, but by far not equal.
    assert 1e-4 < abs(losses[0] - exact[0]) < 0.5 * exact[0]
    types = {x.data_type for x in onnx.load(result.folder / "model.onnx").graph.initializer}
    assert onnx.TensorProto.BFLOAT16 not in types
    assert onnx.TensorProto.FLOAT in types
    model = keras.saving.load_model(result.folder / "model.keras", safe_mode=True)
    assert {x.compute_dtype for x in model.get_layer("efficientnet_b0").layers} == {"float32"}
    oof = OutOfFold.read(result.folder / "oof.parquet")
    classifier = keras_birds.load(result.folder)
    scores = classifier.scores(data / oof.paths[0])[list(LABELS)].to_numpy()
    np.testing.assert_allclose(scores[0], oof.scores[0], rtol=0, atol=1e-4)


def test_the_metric_of_training_is_the_masked_one():
    model = make_dense()
    targets = np.array([[1, 0, -1], [0, 1, -1], [0, -1, 1.0], [1, 0, 0]], "float32")
    x = np.random.default_rng(0).random((4, 4), np.float32)
    found = model.evaluate(x, targets, verbose=0, return_dict=True)
    metric = MaskedMacroAUC(3, from_logits=True)
    metric.update_state(targets, model.predict(x, verbose=0))
    assert found["macro_auc"] == pytest.approx(float(metric.result()), abs=1e-6)


@torch_only
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
    shapes = [
        keras.saving.load_model(x / "model.keras")
        .get_layer(BACKBONE)
        .get_layer("stage3_block2_depthwise_conv")
        .get_weights()[0]
        .shape
        for x in folds
    ]
    assert [x[2] for x in shapes] == [144, 72]
    before, after = (OutOfFold.read(x / "oof.parquet") for x in folds)
    assert before.paths == after.paths
    assert ModelMetadata.read_onnx(tmp_path / "small.onnx").model_id == "first-pruned-0.5/fold0"
    weights = [x.dims for x in onnx.load(tmp_path / "small.onnx").graph.initializer]
    depthwise = [x[0] for x in weights if len(x) == 4 and x[1] == 1 and x[2] > 1]
    assert sorted(depthwise) == [32, 32, 48, 72, 72], (
        "the stem, an unexpanded block, and halves of 96, 144 and 144"
    )
    # A second export trains nothing.
    code, _, told = run_command(*command)
    assert (code, "fold 0: finished before" in told, "epoch" in told) == (0, True, False)


@torch_only
@pytest.mark.parametrize("k", range(NUM_FOLDS))
def test_a_fold_begins_with_what_the_same_fold_had_learnt(whole, k):
    config = make_config().model_dump()
    config["model"] |= {"initial": str(whole[0].out)}
    model = initial_model(Config.parse(config), k, list(LABELS))
    images = np.random.default_rng(0).uniform(0, 1, (4, 32, 32, 1)).astype(np.float32)
    before = keras.saving.load_model(whole[0].out / f"fold{k}" / "model.keras")
    np.testing.assert_allclose(model.predict(images), before.predict(images), atol=1e-5)
    with pytest.raises(ModelError, match=r"The labels of .* and the data set must be the same"):
        initial_model(Config.parse(config), k, ["wren", "bat"])


@torch_only
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
