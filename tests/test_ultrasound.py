"""Time expansion and the band of frequencies: bats at 250 to 500 kHz, in the recording's own seconds and Hz."""

import csv

import numpy as np
import pytest
import scipy.signal
import soundfile
from placeholder import AUDIO, LABELS, TONES_HZ, make_metadata, make_model, write_fold

import keras_birds
from keras_birds.audio import guano
from keras_birds.audio.band import band_passed, in_band
from keras_birds.audio.clips import crop_start
from keras_birds.audio.decode import decode, decode_clip, read_part
from keras_birds.config import AudioConfig, Config
from keras_birds.data.annotated import read_annotated
from keras_birds.data.mel_store import describe_difference, read_settings, store_settings
from keras_birds.errors import ConfigError, ModelError
from keras_birds.export.exporter import export_model
from keras_birds.models.metadata import ModelMetadata

BAND = AudioConfig(sample_rate_hz=32_000, f_low_hz=1500, f_high_hz=12_000)
BATS = AudioConfig(sample_rate_hz=16_000, clip_s=2.0, speed=0.1)
RECORDERS = [(250_000, "PCM_16"), (384_000, "PCM_24"), (500_000, "PCM_16")]


def test_a_band_is_the_same_in_blocks_of_any_size_and_in_parts(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 100_001).astype(np.float32)
    whole = in_band(noise, BAND)
    assert (len(whole), whole.dtype) == (len(noise), np.float32)
    for size in (1000, 40_000, 99_999):
        blocks = [noise[k : k + size, None] for k in range(0, len(noise), size)]
        np.testing.assert_array_equal(np.concatenate(list(band_passed(blocks, BAND)))[:, 0], whole)
    path = tmp_path / "a.wav"
    for rate_hz, atol in ((32_000, 1e-6), (48_000, 2e-4)):
        soundfile.write(path, noise, rate_hz, subtype="FLOAT")
        whole, audio = decode(path, BAND).samples, BAND.model_copy(update={"clip_s": 0.5})
        first, clip = crop_start(len(whole), 16_000, 0.5, 480), decode_clip(path, audio, 0.5, 480).samples
        np.testing.assert_allclose(clip, whole[first : first + 16_000], atol=atol)
        np.testing.assert_allclose(read_part(path, 0.5, 0.75, BAND), whole[16_000:24_000], atol=10 * atol)
    assert len(read_part(path, 2.0, 9.0, BAND)) == len(whole) - 64_000


@pytest.mark.parametrize(("low_hz", "high_hz"), [(1500, 0), (0, 12_000), (1500, 12_000), (16, 0)])
def test_what_lies_outside_of_a_band_is_60_db_down_and_nothing_moves(low_hz, high_hz):
    audio = BAND.model_copy(update={"f_low_hz": low_hz, "f_high_hz": high_hz})
    click = np.zeros(64_001, np.float32)
    click[32_000] = 1
    found = in_band(click, audio)
    np.testing.assert_allclose(found, found[::-1], atol=1e-7)
    hz, response = scipy.signal.freqz(found, worN=np.arange(1, 16_000, 1), fs=32_000)
    db = 20 * np.log10(np.abs(response) + 1e-9)
    inside = (hz > 1.25 * low_hz) & (hz < (high_hz / 1.125 or 16_000))
    outside = (hz < 0.75 * low_hz) | (hz > (1.125 * high_hz or 16_000))
    assert np.abs(db[inside]).max() < 0.1
    assert db[outside].max() < -59
    for bound_hz in filter(None, (low_hz, high_hz)):
        assert db[hz == bound_hz] == pytest.approx(-6, abs=0.1)


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        ({"speed": 0}, r"audio\.speed: .*greater than or equal to 0\.01"),
        ({"f_low_hz": 3000, "f_high_hz": 2000}, r"f_low_hz must be below f_high_hz"),
        ({"f_low_hz": 16_000}, r"f_low_hz must be below .* half of audio\.sample_rate_hz \(16000\)"),
        ({"f_high_hz": 16_000}, r"f_high_hz must be below half of audio\.sample_rate_hz \(16000\)"),
        ({"f_low_hz": 3}, "f_low_hz must be 0 or at least 16"),
        ({"f_low_hz": 15_000}, "must leave something of the mel's 50 to 14000 Hz"),
    ],
)
def test_impossible_settings_are_refused(audio, words):
    with pytest.raises(ConfigError, match=words):
        Config.parse({"audio": audio})


@pytest.fixture(scope="module")
def bats(tmp_path_factory):
    """The placeholder as a model of bats: it takes tones ten times as high, in windows of 0.2 s."""
    audio = BATS.model_copy(update={"f_low_hz": 100.0})
    return write_fold(tmp_path_factory.mktemp("runs") / "bats" / "fold0", make_model(), audio=audio)


def sweeps(rate_hz, spans):
    """Noise of 1.1 s over rumble, with ten-millisecond sweeps down across each tone in its span of seconds."""
    t = np.arange(round(1.1 * rate_hz)) / rate_hz
    sound = np.random.default_rng(0).normal(0, 1e-3, len(t)) + 0.4 * np.sin(2 * np.pi * 60 * t)
    for k, (begin_s, end_s) in spans.items():
        hz = 10 * TONES_HZ[k] * (1.02 - 4 * (t % 0.01))
        sound += 0.4 * np.sin(2 * np.pi * np.cumsum(hz) / rate_hz) * ((t >= begin_s) & (t < end_s))
    return sound.astype(np.float32)


def test_bats_are_found_in_the_recordings_own_seconds_and_hz(bats, tmp_path, run_command):
    spans = {2: (0.2, 0.4), 3: (0.6, 1.0)}
    for rate_hz, subtype in RECORDERS:
        soundfile.write(tmp_path / f"{rate_hz}.wav", sweeps(rate_hz, spans), rate_hz, subtype=subtype)
    code, _, err = run_command(
        *("detect", *sorted(tmp_path.glob("*.wav")), "--model", bats, "--threshold", 0.6, "--merge"),
        *("--format", "raven", "--out", tmp_path / "out", "--overlap", 0.1),
    )
    assert code == 0, err
    table = (tmp_path / "out" / "detections.Table.1.selections.txt").read_text()
    found = list(csv.DictReader(table.splitlines(), delimiter="\t"))
    # A window that half overlaps a call holds it as well.
    expected = [(LABELS[2], 0.1, 0.5), (LABELS[3], 0.5, 1.1)] * 3
    boxes = [
        (
            x["Species Code"],
            float(x["File Offset (s)"]),
            float(x["End Time (s)"]) - float(x["Begin Time (s)"]),
        )
        for x in found
    ]
    assert boxes == [(label, a, pytest.approx(b - a, abs=1e-6)) for label, a, b in expected]
    assert {(x["Low Freq (Hz)"], x["High Freq (Hz)"]) for x in found} == {("1000.0", "80000.0")}
    with (tmp_path / "out" / "manifest.csv").open() as stream:
        for row, (rate_hz, _) in zip(csv.DictReader(stream), RECORDERS, strict=True):
            assert (float(row["seconds"]), int(row["sample_rate_hz"]), row["windows"]) == (1.1, rate_hz, "10")
    classifier, path = keras_birds.load(bats), tmp_path / "384000.wav"
    scores = classifier.scores(path)
    # A tail of 0.1 s, 1 s as the model hears it, isn't dropped.
    assert scores["start_s"].tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert scores["end_s"].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.1])
    samples, rate_hz = soundfile.read(path, dtype="float32")
    np.testing.assert_allclose(classifier.predict(samples, rate_hz), scores[list(LABELS)], atol=1e-3)


def test_annotated_windows_are_in_the_recordings_own_seconds(tmp_path):
    soundfile.write(tmp_path / "a.wav", sweeps(384_000, {2: (0.2, 0.4)}), 384_000)
    (tmp_path / "a.csv").write_text("file,start_s,end_s,label\na.wav,0.21,0.29,pip\n")
    data = {"annotations": str(tmp_path / "a.csv"), "window_overlap_s": 0.1}
    audio = {"sample_rate_hz": 16_000, "clip_s": 2.0, "speed": 0.1}
    config = Config.parse({"audio": audio, "mel": {"f_max_hz": 8000}, "data": data})
    found = read_annotated(tmp_path, config)
    with pytest.raises(ConfigError, match=r"window_overlap_s must be below the 0\.2 s of a recording"):
        Config.parse({"audio": audio, "mel": {"f_max_hz": 8000}, "data": {"window_overlap_s": 0.2}})
    rows = found.recordings[found.recordings["label"] == "pip"]
    assert rows["start_s"].tolist() == pytest.approx([0.1, 0.2])
    assert rows["end_s"].tolist() == pytest.approx([0.3, 0.4])
    assert len(found.recordings) == 10


def test_files_of_models_and_stores_tell_the_settings_and_older_ones_mean_the_defaults(bats, tmp_path):
    metadata = ModelMetadata.read_onnx(bats / "model.onnx")
    assert (metadata.audio.speed, metadata.audio.f_low_hz) == (0.1, 100)
    assert (metadata.audio.resample_hz, metadata.audio.window_s) == (160_000, 0.2)
    assert metadata.onnx_props()["speed"] == "0.1"
    older = make_metadata().to_dict()
    for key in ("speed", "f_low_hz", "f_high_hz"):
        del older["audio"][key]
    assert ModelMetadata.from_dict(older).audio == AUDIO
    (tmp_path / "settings.json").write_text('{"audio.clip_s": 5.0}')
    wanted = store_settings(Config.parse({"audio": {"speed": 0.1}}))
    told = describe_difference(read_settings(tmp_path), wanted)
    assert "audio.speed is 1.0, not 0.1" in told
    assert "f_low_hz" not in told
    clips = np.zeros((1, AUDIO.clip_samples), np.float32)
    with pytest.raises(ModelError, match=r"takes sound.*f_low_hz 100, f_high_hz 0\. Pass --input mel"):
        export_model([bats / "model.onnx"], tmp_path / "a.onnx", "waveform", "float32", clips)
    assert "10 times slower" in guano.read(b"GUANO|Version: 1.0\nTE: 10\n").problems
