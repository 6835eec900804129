"""Training on BirdNET's embeddings, and of BirdNET as a whole."""

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
from small_run import Watcher

from keras_birds.config import AudioConfig, Config
from keras_birds.errors import ConfigError
from keras_birds.inference.classifier import load
from keras_birds.models.calibration import sigmoid
from keras_birds.models.engines import OnnxEngine
from keras_birds.models.ensemble import Ensemble
from keras_birds.models.keras_engine import load_keras_model
from keras_birds.models.metadata import ModelMetadata
from keras_birds.nn.augment import BackgroundMix
from keras_birds.nn.waveform_augment import RotateInTime, add_sound
from keras_birds.progress import Reporter
from keras_birds.training.embeddings import EmbeddingSource, unlabel_silence
from keras_birds.training.network import class_weights
from keras_birds.training.oof import OutOfFold
from keras_birds.training.run import frozen_run, prepare_run
from keras_birds.training.train import train

FOLDS = ("folds.n_folds=2", "folds.hidden_fraction=0")
RATE_HZ = 16_000


def write_sounds(folder, labels=("wren", "bat"), count=4):
    """Noisy tones of one, two or three windows, a folder a label."""
    rng = np.random.default_rng(0)
    for k, label in enumerate(labels):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            t = np.arange(round(RATE_HZ * (2.5 + 2.2 * (i % 3)))) / RATE_HZ
            tone = 0.3 * np.sin(2 * np.pi * 900 * (k + 1) * t) * (t % 1 < 0.5)
            soundfile.write(folder / label / f"{i}.wav", tone + rng.normal(0, 0.02, len(t)), RATE_HZ)
    return folder


@pytest.fixture(scope="module")
def trained(birdnet_library, tmp_path_factory):
    """A data set, and what `birdnet-head` makes of it in a few epochs, with noise as negatives; read-only."""
    folder = tmp_path_factory.mktemp("head")
    data, noise = write_sounds(folder / "data"), write_sounds(folder / "noise", ("rain",), 2)
    changes = (f"data.background={noise}", "data.background_fraction=0.2", "training.epochs=4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BIRDS_MODELS", str(birdnet_library))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        watcher = Watcher()
        run = train(
            Config.load("birdnet-head", [*FOLDS, *changes]), data, 0, folder / "run", reporter=watcher
        )
    assert any("2 of background" in line for line in watcher.lines)
    return data, run


def check_scores(fold, data):
    """What a fold says of recordings of one window and of two is what `predict` says of their files."""
    oof, classifier = OutOfFold.read(fold.folder / "oof.parquet"), load(fold.folder)
    found = [classifier.score_file(data / path).scores for path in oof.paths]
    assert {len(x) for x in found} == {1, 2}
    np.testing.assert_allclose([x.mean(axis=0) for x in found], oof.scores, atol=1e-3)


def test_validation_and_prediction_score_a_recording_alike(trained):
    data, run = trained
    (fold,) = run.folds
    check_scores(fold, data)
    assert fold.history["val_macro_auc"][-1] == fold.macro_auc


def test_a_head_is_kept_with_its_backbone_and_its_licence(trained, birdnet_library):
    model = trained[1].folds[0].folder / "model.onnx"
    session = onnxruntime.InferenceSession(model)
    assert [x.name for x in session.get_inputs()] == ["waveform"]
    assert {x.name for x in session.get_outputs()} == {"logits", "embedding"}
    found, source = (ModelMetadata.read_onnx(x) for x in (model, birdnet_library / "birdnet" / "model.onnx"))
    assert (found.licence, found.source) == (source.licence, source.source)
    assert "NC-SA" in found.licence


def test_heads_on_one_backbone_ask_it_once(trained, tmp_path, monkeypatch):
    def engine(name, wanted):
        model = onnx.load(trained[1].folds[0].folder / "model.onnx")
        weights = next(
            x for x in model.graph.initializer if wanted in (x.name.split("params.")[-1], list(x.dims))
        )
        weights.CopyFrom(
            onnx.numpy_helper.from_array(1.5 * onnx.numpy_helper.to_array(weights), weights.name)
        )
        onnx.save(model, tmp_path / name)
        return OnnxEngine(tmp_path / name)

    head, other_head = engine("a.onnx", "embedding_scale/scale"), engine("b.onnx", "embedding_scale/offset")
    other_backbone = engine("c.onnx", [1024, 192, 3, 3])
    clips = np.random.default_rng(0).normal(0, 0.1, (2, 144_000)).astype(np.float32)
    each = [x.probabilities(clips) for x in (head, other_head, other_backbone)]
    assert np.abs(each[0] - each[1]).max() > 1e-3
    asked, run = [], OnnxEngine._run
    monkeypatch.setattr(OnnxEngine, "_run", lambda self, *x: asked.append((self, x[0])) or run(self, *x))
    np.testing.assert_allclose(
        Ensemble([head, other_head]).probabilities(clips), (each[0] + each[1]) / 2, atol=1e-6
    )
    assert asked == [(head, "embedding")]
    np.testing.assert_allclose(
        Ensemble([head, other_backbone]).probabilities(clips), (each[0] + each[2]) / 2, atol=1e-6
    )
    assert asked[1:] == [(head, "logits"), (other_backbone, "logits")]


def test_embeddings_are_computed_once(birdnet_model, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = sorted(map(str, write_sounds(tmp_path / "data", count=2).rglob("*.wav")))
    audio, model, asked = AudioConfig(sample_rate_hz=48_000, clip_s=3.0, fill="silence"), "model.onnx", []
    watcher = SimpleNamespace(progress=lambda task, done, total: asked.append((done, total)))

    def windows():
        asked.clear()
        return EmbeddingSource(birdnet_model / model, audio, paths, watcher).windows(np.arange(len(paths)))

    embeddings, counts = windows()
    assert (embeddings.shape, counts.tolist(), asked[-2]) == ((6, 1024), [1, 2, 1, 2], (4, 4))
    assert (np.array_equal(windows()[0], embeddings), asked) == (True, [])
    soundfile.write(paths[1], np.random.default_rng(1).normal(0, 0.1, RATE_HZ), RATE_HZ)
    changed, counts = windows()
    assert (counts.tolist(), asked[0]) == ([1, 1, 1, 2], (1, 1))
    assert np.array_equal(changed[[0, 2, 3, 4]], embeddings[[0, 3, 4, 5]])


def test_a_clips_silent_end_has_none_of_its_labels(birdnet_model, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sound = np.random.default_rng(0).normal(0, 0.1, 5 * RATE_HZ // 2)
    soundfile.write(tmp_path / "a.wav", np.pad(sound, (0, 3 * RATE_HZ)), RATE_HZ)
    audio, model = (
        AudioConfig(sample_rate_hz=48_000, clip_s=3.0, fill="silence"),
        birdnet_model / "model.onnx",
    )
    for reporter in (Reporter(), None):  # as computed, and as kept
        source = EmbeddingSource(model, audio, [str(tmp_path / "a.wav")], reporter)
        embeddings = source.images(np.zeros(2, int), np.array([0.0, 0.9]))
        augment = unlabel_silence(lambda x, y, seed: (x, y), source.silence)
        assert augment(embeddings, np.ones((2, 2), np.float32), 0)[1].tolist() == [[1, 1], [0, 0]]


def test_embeddings_for_the_first_heads_are_read_once(trained, birdnet_library, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BIRDS_MODELS", str(birdnet_library))
    monkeypatch.setenv("XDG_CACHE_HOME", str(trained[0].parent / "cache"))
    run = prepare_run(Config.load("birdnet", FOLDS), trained[0], "all", tmp_path / "run", False, Reporter())
    first, second = (frozen_run(run, Reporter()) for _ in range(2))
    assert first.source is second.source is run.embedded[0]


def test_the_whole_network_learns_from_where_its_head_ended(trained, birdnet_library, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BIRDS_MODELS", str(birdnet_library))
    data, head = trained
    changes = ["model.pretrained=none", f"model.initial={head.out}", "model.head_first=false"]
    changes += ["training.epochs=1", "training.learning_rate=1e-3"]
    (fold,) = train(Config.load("birdnet", [*FOLDS, *changes]), data, 0, tmp_path / "run").folds
    before, after = load_keras_model(head.folds[0].folder / "model.keras"), fold.model
    for name in ("stem_conv", "stage4_block4_expand", "top_conv", "scores"):
        old, new = (x.get_layer(name).get_weights()[0] for x in (before, after))
        assert 0 < np.abs(new - old).max() < 0.02, name
    clips = np.random.default_rng(0).normal(0, 0.1, (2, 144_000)).astype(np.float32)
    (logits,) = onnxruntime.InferenceSession(fold.folder / "model.onnx").run(["logits"], {"waveform": clips})
    np.testing.assert_allclose(sigmoid(logits), sigmoid(after.predict(clips, verbose=0)), atol=1e-4)
    assert "NC-SA" in ModelMetadata.read_onnx(fold.folder / "model.onnx").licence
    check_scores(fold, data)


def test_a_model_that_was_not_added_is_told(tmp_path):
    data = write_sounds(tmp_path / "data", count=2)
    with pytest.raises(
        ConfigError, match=r"birdnet, which isn't here\. Add it with `keras-birds models add birdnet`"
    ):
        train(Config.load("birdnet-head", FOLDS), data, 0, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sound_is_rotated_and_mixed_at_the_drawn_ratio():
    rng, clips = np.random.default_rng(0), np.random.default_rng(1).normal(0, 1, (4, 50)).astype(np.float32)
    kept = clips.copy()
    rotated = RotateInTime(1.0).augment_arrays(clips, rng)
    for clip, other in zip(clips, rotated, strict=True):
        assert any(np.array_equal(np.roll(clip, k), other) for k in range(1, 50))
    noises = np.stack([np.zeros(50), np.full(50, 3)]).astype(np.float32)
    mixed = (
        BackgroundMix(lambda x: noises[x % 2], 2, (6.0, 6.0), 1.0, add_sound).augment_arrays(clips, rng)
        - clips
    )
    power_db = 10 * np.log10(np.mean(clips**2, axis=1) / np.maximum(np.mean(mixed**2, axis=1), 1e-20))
    assert {x > 100 or abs(x - 6) < 1e-3 for x in power_db.tolist()} == {True}
    assert np.array_equal(clips, kept)
    assert RotateInTime(0.0).augment_arrays(clips, rng).tolist() == kept.tolist()


def test_rare_labels_weigh_more_by_a_power():
    run = SimpleNamespace(
        config=Config.parse({"training": {"class_weights": 0.5}}),
        targets=np.array([[1, 0, 0]] * 16 + [[0, 1, 0]] * 4 + [[0, 1, 0]] * 9),
        train_rows=lambda fold: np.arange(20),
    )
    assert class_weights(run, 0) == [1.0, 2.0, 4.0]
