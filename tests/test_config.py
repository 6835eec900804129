import shlex
import tomllib
from pathlib import Path

import click
import pytest

from keras_birds.cli.main import cli
from keras_birds.config import Config
from keras_birds.errors import ConfigError
from keras_birds.resources import resource

SHIPPED = sorted(resource("configs").glob("*.toml"))
BIRDNET, SOUND = {"backbone": "birdnet"}, {"sample_rate_hz": 48_000, "clip_s": 3.0}
TAKES = r"--set takes section\.key=value\. Received: "


def test_all_wrong_keys_are_named_at_once_with_the_nearest_right_ones(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[training]\nepoch = 2\nlr = 1e-3\n[mel]\nn_mel = 64\n[modell]\ndropout = 0.1\n")
    with pytest.raises(ConfigError) as caught:
        Config.load(path)
    near = {"mel.n_mel": "mel.n_mels", "training.epoch": "training.epochs", "modell": "model"}
    expected = {
        f"unknown key {x} (did you mean {y}?)" for x, y in {**near, "training.lr": "training"}.items()
    }
    source, _, problems = str(caught.value).partition(": ")
    assert (source, set(problems.split("; "))) == (str(path), expected)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mel": {"f_max_hz": 20_000}}, r"f_max_hz must not exceed half of audio\.sample_rate_hz \(16000\)"),
        ({"mel": {"f_min_hz": 14_000}}, r"f_min_hz must be below f_max_hz \(14000\)"),
        ({"training": {"epochs": 5, "warmup_epochs": 5}}, r"warmup_epochs must be below epochs \(5\)"),
        ({"training": {"ema_momentum": 0.9}}, r'keep must be "last" with ema_momentum'),
        ({"training": {"swa_epochs": 11, "ema_momentum": 0.9}}, r"0 with ema_momentum.*exceed epochs \(10\)"),
        ({"data": {"background_fraction": 0.2}}, r"background must name a folder"),
        ({"augment": {"background": {"probability": 0.2}}}, r"data\.background must name a folder"),
        ({"augment": {"pitch_shift": {"semitones": [2, -2]}}}, r"semitones: must be \[low, high\]"),
        ({"mel": {"n_mfcc": 129}}, r"n_mfcc must not exceed n_mels \(128\)"),
        ({"mel": {"n_fft": 200_000}}, "n_fft must not exceed the clip's 160000 samples"),
        ({"folds": {"strategy": "column"}}, r'folds\.column must name a column when strategy = "column"'),
        ({"augment": {"time_mask": {"size": [20, 5]}}}, r"augment\.time_mask\.size: must be \[low, high\]"),
        ({"model": {"initial": "a"}}, 'pretrained must be "none" when initial'),
        ({"model": {"prune": 0.5}}, "initial must name a trained run when prune"),
        ({"data": {"min_rating": float("nan")}}, "data.min_rating: .*finite"),
        ({"model": BIRDNET}, r"sample_rate_hz must be 48000 and audio\.clip_s 3\.0"),
        ({"audio": SOUND, "model": BIRDNET}, "the probability of augment must be 0: .* takes sound"),
        (
            {"audio": SOUND, "model": {**BIRDNET, "frozen": True, "pretrained": "none"}},
            "name a model when frozen",
        ),
        (
            {"audio": SOUND, "model": {**BIRDNET, "frozen": True, "initial": "a"}},
            "initial must be empty when frozen",
        ),
        (
            {"audio": SOUND, "model": BIRDNET, "data": {"store": "a"}},
            "data.store, of mel images, must be empty",
        ),
        ({"model": {"frozen": True}}, r'model\.backbone must be "birdnet" or "stored" when frozen'),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        Config.parse(settings)


def test_overrides_are_toml_values_or_bare_words_and_the_last_of_one_key_counts():
    overrides = [
        *("training.epochs=3", "training.epochs=2", "training.learning_rate = 1e-3", "model.pretrained=none"),
        *("augment.gain.bias=[0.0, 0.05]", 'data.collections=["XC", "iNat"]'),
        *("data.dir=/a b/c=d", 'data.table="birds.csv"'),
    ]
    assert Config.load("baseline", overrides) == Config.parse(
        {
            "training": {"epochs": 2, "learning_rate": 1e-3},
            "model": {"pretrained": "none"},
            "augment": {"gain": {"bias": (0.0, 0.05)}},
            "data": {"collections": ("XC", "iNat"), "dir": "/a b/c=d", "table": "birds.csv"},
        }
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("training.epochs", TAKES),
        ("training.=2", TAKES),
        (".epochs=2", TAKES),
        ("training.epochs.more=2", "epochs is a value, not a section"),
        (
            "training.epoks=2 training.batch_size=many",
            r"batch_size: .*Received: 'many'; .*mean training.epochs",
        ),
    ],
)
def test_wrong_overrides_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        Config.load("baseline", overrides.split())


def test_to_toml_round_trip(tmp_path):
    config = Config.parse(
        {
            "data": {"dir": 'C:\\birds "new"\n\tñ🐦', "collections": ["XC", "ïNat"], "min_rating": 3.5},
            "folds": {"strategy": "grouped", "column": "author", "hidden_fraction": 0},
            "training": {"learning_rate": 1e-7, "weight_decay": 0, "epochs": 3},
            "augment": {"time_mask": {"count": [2, 2]}, "volume": {"probability": 1}},
        }
    )
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert Config.load(path) == config != Config()


def test_missing_and_unreadable_files_are_told(tmp_path):
    with pytest.raises(ConfigError, match=r"existing TOML file\. Received: no/such\.toml"):
        Config.load("no/such.toml")
    with pytest.raises(ConfigError, match=r"one of: baseline, .*smoke, student\. Received: baselin$"):
        Config.load("baselin")
    path = tmp_path / "broken.toml"
    for content in (b"[training\n", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"broken\.toml: a configuration must be a readable TOML file"):
            Config.load(path)


def test_baseline_is_the_defaults_and_states_every_one_of_them():
    assert Config.load("baseline") == Config() == Config.load()
    stated = tomllib.loads(resource("configs", "baseline.toml").read_text(encoding="utf-8"))
    assert stated == tomllib.loads(Config().to_toml())
    audio = Config.parse({"audio": {"sample_rate_hz": 44_100, "clip_s": 0.5}}).audio
    assert (Config().audio.clip_samples, audio.clip_samples) == (160_000, 22_050)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_shipped_config_loads_and_opens_with_its_run_command(path: Path):
    Config.load(path.stem)
    program, name, *words = shlex.split(path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# "))
    command = cli.get_command(click.Context(cli), name)
    known = {option for parameter in command.params for option in parameter.opts}
    assert (program, words[words.index("--config") + 1]) == ("keras-birds", path.stem)
    assert {word for word in words if word.startswith("--")} <= known
