"""Pretraining without labels, end to end: what is heard, what is left behind, and how a run begins with it.

The network is EfficientNet-B0 with fewer blocks; test_nn_contrastive.py has the formulas.
"""

import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
import small_run as small
import soundfile
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score
from small_run import Watcher, files_below, make_config

from keras_birds.cli.main import cli
from keras_birds.config import Config
from keras_birds.data.catalog import read_catalog
from keras_birds.data.folds import HIDDEN, Split, make_split
from keras_birds.data.heard import Labelled, clip_starts_s, find_heard, hear
from keras_birds.data.precompute import precompute
from keras_birds.errors import ConfigError, DataError
from keras_birds.models.find import resolve_model
from keras_birds.models.keras_engine import load_keras_model
from keras_birds.nn.build import dtype_policy
from keras_birds.nn.contrastive import contrastive_model
from keras_birds.nn.efficientnet import BACKBONE
from keras_birds.training.network import first_model
from keras_birds.training.pretrain import pretrain
from keras_birds.training.probe import neighbour_scores
from keras_birds.training.run import prepare_run
from keras_birds.training.train import train
from keras_birds.training.warm_start import describe_heard

pytestmark = pytest.mark.usefixtures("shallow_network")
EPOCHS, HEARD = 3, 34
FILES = {
    "backbone.keras",
    "pretraining.json",
    "history.csv",
    "manifest.csv",
    "config.toml",
    "environment.json",
}
FILES |= {"labelled/manifest.csv", "labelled/split.csv"}


def settings(contrastive=(), augment=(), **training):
    config = make_config(
        augment={"mixup": {"probability": 0}, **dict(augment)},
        **{"epochs": EPOCHS, "batch_size": 8, "keep": "last", **training},
    )
    chosen = {"view_s": 0.25, "projection_units": 8, "neighbours": 5, **dict(contrastive)}
    return Config.parse(config.model_dump() | {"contrastive": chosen})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.make_data(tmp_path_factory.mktemp("data") / "birds")


@pytest.fixture(scope="module")
def wild(data, tmp_path_factory):
    """Recordings without labels, odd ones and copies of one that fold 0 is measured on and one that it trains on."""
    folder, rng = tmp_path_factory.mktemp("wild"), np.random.default_rng(3)
    sweep = np.sin(np.cumsum(np.geomspace(0.2, 2.5, 5 * small.RATE_HZ))) / 2
    sounds = {"long": sweep, "silent": np.zeros(small.RATE_HZ)}
    for name, samples in {**sounds, "short": rng.normal(0, 0.1, 1500)}.items():
        soundfile.write(folder / f"{name}.wav", samples, small.RATE_HZ)
    (folder / "broken.wav").write_bytes(b"RIFF nothing")
    for name, number in (("held", 3), ("known", 15)):
        shutil.copyfile(data / "train_audio" / "bat" / f"{number}.wav", folder / f"{name}.wav")
    return folder


@pytest.fixture(scope="module")
def whole(data, wild, tmp_path_factory, shallow_network):
    """An uninterrupted pretraining on both folders, and what it said."""
    out, watcher = tmp_path_factory.mktemp("whole") / "pre", Watcher()
    return pretrain(settings(), [data, wild], out, data, 0, reporter=watcher), watcher.lines


def test_what_is_heard_and_what_is_left_behind(whole, wild):
    result, lines = whole
    manifest = pd.read_csv(result.out / "manifest.csv").set_index("path")
    found = {x: tuple(manifest.loc[str(wild / f"{x}.wav"), ["status", "clips"]]) for x in ("long", "silent")}
    assert found == {"long": ("ok", 10), "silent": ("silent", 0)}
    reasons = manifest.loc[[str(wild / f"{x}.wav") for x in ("short", "held", "broken")], "reason"]
    for reason, told in zip(
        reasons, ("shorter than a view (0.19 s)", "holds the same as", "not audio"), strict=True
    ):
        assert told in reason
    # Of fold 0, 36 and the copy; two of the others are broken, as are three in the wild.
    assert (result.recordings, result.clips, result.held_out, result.left_out) == (
        HEARD + 2,
        HEARD + 11,
        37,
        5,
    )
    assert lines[0] == (
        f"{result.out}: 45 clips of 36 recordings, 35 of them in the data set with labels, 37 held out, on which "
        "fold 0 does not train, 5 left out (see manifest.csv)"
    )
    assert files_below(result.out) == FILES
    told = json.loads((result.out / "pretraining.json").read_text())
    assert (told["clips"], told["labelled"]["fold"], told["mel"]["width"]) == (45, 0, 32)
    history = pd.DataFrame(result.history)
    assert len(history) == EPOCHS
    assert np.isfinite(history[["loss", "matched_views", "probe_macro_auc", "seconds"]]).all(axis=None)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_the_probe_is_that_of_the_kept_backbone(whole, data):
    """By the definition, one held-out recording after another, from the files."""
    backbone, config = load_keras_model(whole[0].out / "backbone.keras"), settings()
    table = pd.read_csv(data / "train.csv")
    table = table[~table["filename"].isin(small.BROKEN)]
    paths = [str(data / "train_audio" / x) for x in table["filename"]]
    found = find_heard(paths, Watcher())
    source = hear(found, config, None, whole[0].out.parent / "manifest.csv", Watcher()).source
    features = keras.ops.convert_to_numpy(backbone(source.images(np.arange(len(paths))))).mean(axis=(1, 2))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = table["primary_label"].to_numpy()
    asked = (table["fold"] == 0).to_numpy()
    cosines = features[asked] @ features[~asked].T
    areas = []
    for label in small.LABELS:
        positive = labels == label
        scores = [np.sort(x)[-5:] @ positive[~asked][np.argsort(x)[-5:]] for x in cosines]
        used = ~((table["secondary_labels"] == label) & ~positive).to_numpy()[asked]
        areas.append(roc_auc_score(positive[asked][used], np.array(scores)[used]))
    assert whole[0].probe_macro_auc == pytest.approx(np.mean(areas), abs=2e-3)


def test_an_interrupted_pretraining_ends_as_the_whole_one(whole, data, wild, tmp_path):
    out = tmp_path / "pre"
    stop = Watcher(lambda lines, done: lines[-1].startswith("epoch 2/") and done == 2)
    with pytest.raises(KeyboardInterrupt):
        pretrain(settings(), [data, wild], out, data, 0, reporter=stop)
    with pytest.raises(DataError, match="--resume must use the data set"):
        pretrain(settings(), [data, wild], out, data, 1, resume=True)
    watcher = Watcher()
    resumed = pretrain(settings(workers=0), [data, wild], out, data, 0, resume=True, reporter=watcher)
    assert "goes on after epoch 2" in watcher.lines
    assert files_below(out) == FILES
    histories = (pd.DataFrame(x.history).drop(columns="seconds") for x in (resumed, whole[0]))
    pd.testing.assert_frame_equal(*histories, rtol=1e-6)
    weights = (load_keras_model(x.out / "backbone.keras").get_weights() for x in (resumed, whole[0]))
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    # Once more: nothing is left to do; the command draws and tells what comes next.
    command = ["pretrain", "--resume", "--config", str(out / "config.toml"), "--labelled", str(data)]
    ended = CliRunner().invoke(cli, [*command, "--data", str(data), "--data", str(wild), "--out", str(out)])
    assert ended.exit_code == 0, ended.output
    assert f"model.initial={out}" in ended.output
    assert (out / "history.png").read_bytes().startswith(b"\x89PNG")
    ended = CliRunner().invoke(cli, ["export", str(out), "--out", str(tmp_path / "a.onnx")])
    assert "Received: a pretraining, which a run begins with" in str(ended.exception)
    # Nor is it a run that was begun.
    assert resolve_model(runs_dir=tmp_path) == resolve_model(runs_dir=tmp_path / "none")


def test_a_run_begins_with_the_whole_backbone_and_is_told_what_it_heard(whole, data, tmp_path):
    initial, watcher = whole[0].out, Watcher()
    config = make_config(model={"initial": str(initial)})
    run = prepare_run(config, data, 1, tmp_path / "run", False, watcher)
    backbone = first_model(run, 1, watcher).get_layer(BACKBONE)
    expected = load_keras_model(initial / "backbone.keras")
    for a, b in zip(backbone.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    count = len(expected.weights)
    told = f"fold 1: {count} of {count} weights of the backbone from {initial}; the head is new"
    assert watcher.lines[-1] == told
    # All that fold 1 is measured on, pretraining on fold 0 heard.
    assert f"without their labels, {HEARD} recordings that a fold is measured on and 0" in watcher.lines[-2]
    hidden = replace(run.split, fold=np.where(run.split.fold == 1, HIDDEN, 0))
    told = describe_heard(config, run.catalog, hidden, [0])
    assert f"without their labels, 0 recordings that a fold is measured on and {HEARD} hidden" in told
    for change, told in (
        ({"mel": {**small.MEL, "hop_samples": 64}}, "mel.hop_samples must be as in"),
        ({"mel": {**small.MEL, "width": 48}}, "mel.width must be 32, for the columns per second"),
        ({"model": {**config.model.model_dump(), "prune": 0.5}}, "model.prune = 0.5"),
    ):
        with pytest.raises(ConfigError, match=re.escape(told)):
            prepare_run(Config.parse(config.model_dump() | change), data, 1, tmp_path / "no", False, watcher)
    # Longer clips at the same columns per second mean the same.
    longer = {"mel": {**small.MEL, "width": 64}, "audio": {**config.audio.model_dump(), "clip_s": 1.0}}
    prepare_run(Config.parse(config.model_dump() | longer), data, 1, tmp_path / "longer", False, watcher)


def test_labels_that_were_learnt_are_not_measured(data, wild, tmp_path):
    config = settings({"use_labels": True, "similarity": "bilinear"}, epochs=1).model_dump()
    config["data"]["background"], config["augment"]["background"]["probability"] = str(wild), 1.0
    config = Config.parse(config)
    pre = pretrain(config, [data], tmp_path / "pre", data, 0)
    initial = make_config(model={"initial": str(pre.out)}, epochs=1)
    with pytest.raises(ConfigError, match=f"Received: {HEARD} such recordings"):
        train(initial, data, 1, tmp_path / "run")
    catalog = read_catalog(data, initial.data)
    split = Split.load(pre.out / "labelled" / "split.csv", catalog)
    hidden = replace(split, fold=np.where(split.fold == 1, HIDDEN, 0))
    with pytest.raises(ConfigError, match=f"Received: {HEARD} such recordings"):
        describe_heard(initial, catalog, hidden, [0])
    assert train(initial, data, 0, tmp_path / "run").folds[0].epochs == 1


@pytest.mark.parametrize("crop", ["center", "random"])
def test_a_mel_store_is_heard_and_what_lies_twice_once(wild, tmp_path, crop):
    config, store = settings(), tmp_path / "mels"
    audio = config.audio.model_copy(update={"crop": crop})
    paths = [wild / f"{x}.wav" for x in ("long", "known", "broken", "silent")]
    precompute(paths, config.model_copy(update={"audio": audio}), store)
    found = find_heard([str(store), str(wild / "held.wav"), str(wild / "known.wav")], Watcher())
    heard = hear(found, config, None, tmp_path / "manifest.csv", Watcher())
    assert [*heard.recordings["clips"]] == [1, 1, 10 if crop == "random" else 1]
    decoded = hear(
        find_heard([str(wild / "long.wav")], Watcher()), config, None, tmp_path / "m.csv", Watcher()
    )
    # Clips of a store begin at multiples of its hop, and their edges see what lies beside them.
    clips = range(10) if crop == "random" else [0]
    images, expected = heard.source.images(np.array(clips) + 2), decoded.source.images(np.arange(10))
    nearest = [abs(expected - x)[:, :, 4:-4].mean(axis=(1, 2, 3)).argmin() for x in images]
    assert nearest == ([*clips] if crop == "random" else [4])


@pytest.mark.parametrize("held_out", [0, 1])
def test_of_parts_of_one_recording_the_held_out_one_counts(wild, tmp_path, held_out):
    whole, paths = tmp_path / "XC12345.wav", ["parts/XC12345_0.ogg", "parts/XC12345_1.ogg"]
    shutil.copyfile(wild / "long.wav", whole)
    catalog = SimpleNamespace(
        recordings=pd.DataFrame({"path": paths}), targets=lambda _: np.zeros((2, 1), np.float32)
    )
    split = SimpleNamespace(train_rows=lambda _: np.array([1 - held_out]))
    found = find_heard([str(whole), str(wild / "long.wav")], Watcher())
    heard = hear(found, settings(), Labelled(catalog, split, 0), tmp_path / "manifest.csv", Watcher())
    told = heard.manifest.set_index("path")[["status", "label_row"]]
    assert tuple(told.loc[str(whole)]) == ("held out", held_out)
    assert tuple(told.loc[str(wild / "long.wav")]) == ("ok", -1)


def test_a_made_soundscape_in_which_a_held_out_recording_is_heard_is_not(data, wild, tmp_path):
    made, config = tmp_path / "made", settings()
    made.mkdir()
    (made / "soundscapes.json").write_text(json.dumps({"data": str(data / "train_audio")}))
    rows = ["trained,bat/15.wav", "mixed,bat/15.wav", "mixed,bat/3.wav", "empty,"]
    calls = ["file,source", *(x.replace(",", ".wav,") for x in rows)]
    (made / "annotations.csv").write_text("\n".join(calls))
    for name in ("trained", "mixed", "empty"):
        shutil.copyfile(wild / "long.wav", made / f"{name}.wav")
    catalog, watcher = read_catalog(data, config.data), Watcher()
    split = make_split(catalog, config.folds)
    found = find_heard([str(made)], watcher)
    pre = tmp_path / "pre"
    pre.mkdir()
    manifest = hear(found, config, Labelled(catalog, split, 0), pre / "manifest.csv", watcher).manifest
    told = manifest.set_index("path").loc[[str(made / f"{x}.wav") for x in ("trained", "empty", "mixed")]]
    assert told[["status", "clips", "label_row"]].to_numpy().tolist() == [
        ["ok", 10, -1],
        ["ok", 10, -1],
        ["held out", 0, -1],
    ]
    held = data / "train_audio" / "bat" / "3.wav"
    assert told["reason"].iloc[2] == f"was made of {held}, which the fold does not train on"
    # Fold 1 is measured on what was heard in one of them.
    (pre / "config.toml").write_text(config.to_toml())
    (pre / "pretraining.json").write_text("{}")
    initial = make_config(model={"initial": str(pre)})
    assert "labels, 1 recordings that a fold is measured on" in describe_heard(initial, catalog, split, [1])
    assert "heard no recording that a fold" in describe_heard(initial, catalog, split, [0])


def test_views_are_compared_in_float32_also_where_the_backbone_is_not():
    with dtype_policy("mixed_bfloat16"):
        model = contrastive_model(settings())
    assert "bfloat16" in {x.compute_dtype for x in model.get_layer(BACKBONE).layers}
    head = [*model.get_layer("projection").parts, model.get_layer("logits")]
    assert {x.compute_dtype for x in head} == {"float32"}


def test_clips_of_a_recording_are_spread_over_it():
    found = {x: clip_starts_s(x, 5.0) for x in (3.0, 7.0, 12.0, 86_400.0)}
    assert [found[x].tolist() for x in (3.0, 7.0, 12.0)] == [[0], [1], [0, 7]]
    starts = found[86_400.0]
    assert (len(starts), starts[0], starts[-1]) == (720, 0, 86_395)


def test_neighbours_vote_by_cosine():
    known, asked = np.array([[1.0, 0], [0, 2], [-1, 0.0]]), np.array([[3.0, 0], [1, 1]])
    targets = np.array([[1, 0], [0, 1], [1, -1]], np.float32)
    expected = [[0.5, 0], [0.5**0.5 / 2, 0.5**0.5 / 2]]
    np.testing.assert_allclose(neighbour_scores(asked, known, targets, 2), expected, atol=1e-6)
    np.testing.assert_allclose(neighbour_scores(asked, known, targets, 9)[0], [0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("names", "change", "error", "told"),
    [
        (
            ("long", "held"),
            {"batch_size": 32},
            ConfigError,
            "exceed the 11 clips to learn from. Received: 32",
        ),
        (("long",), {"augment": {"mixup": {}}}, ConfigError, "no place for augment.mixup.probability"),
        (("long",), {"keep": "best"}, ConfigError, 'training.keep must be "last"'),
        (
            ("long",),
            {"contrastive": {"view_s": 0.6}},
            ConfigError,
            "exceed audio.clip_s (0.5). Received: 0.6",
        ),
        (("long",), {"contrastive": {"use_labels": True}}, ConfigError, "Received: no --labelled"),
        (("silent", "broken"), {}, DataError, "none of them usable, the first"),
    ],
)
def test_what_can_not_be_learnt_from_is_told(wild, tmp_path, names, change, error, told):
    with pytest.raises(error, match=re.escape(told)):
        pretrain(settings(**change), [wild / f"{x}.wav" for x in names], tmp_path / "pre")
