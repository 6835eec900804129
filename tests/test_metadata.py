import json
import math

import numpy as np
import onnx
import pytest
from placeholder import LABELS, make_metadata

from keras_birds.errors import ModelError
from keras_birds.models.calibration import Calibration, logit, sigmoid
from keras_birds.models.metadata import ModelMetadata, check_labels, joined_id


def test_the_onnx_file_holds_the_metadata_and_plain_keys_for_other_programs(placeholder_run):
    path = placeholder_run / "fold0" / "model.onnx"
    metadata = make_metadata("20250601-101500/fold0")
    assert ModelMetadata.read_onnx(path) == ModelMetadata.read_json(path.with_name("model.json")) == metadata
    assert metadata.labels.items == ModelMetadata.read_onnx(path).labels.items
    props = {x.key: x.value for x in onnx.load(path).metadata_props}
    assert json.loads(props.pop("keras_birds")) == metadata.to_dict()
    assert props == {
        "format_version": "1",
        "model_id": "20250601-101500/fold0",
        "licence": "Apache-2.0",
        "labels": "\n".join(LABELS),
        "sample_rate_hz": "16000",
        "clip_s": "2",
    }
    # Undefined metrics are null in JSON and NaN in Python.
    data = make_metadata(metrics={"macro_auc": math.nan}).to_dict()
    assert data["metrics"] == {"macro_auc": None}
    assert math.isnan(ModelMetadata.from_dict(data).metrics["macro_auc"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, r"format_version 1\. Received: 2\. Update"),
        ({"labels": None}, "complete"),
        ({"labels": [{"name": "a"}, {"name": "a"}]}, "unique"),
        ({"audio": {"clip_s": -1}}, "clip_s"),
        ({"mel": {"n_mels": 64, "wrong": 1}}, "wrong"),
        ({"mel": ...}, "nothing under 'mel'"),
        ({"calibration": {"method": "magic"}}, r"method: Input should be 'platt' or 'isotonic'"),
        ({"calibration": Calibration("platt", 0.9, 0.1, 0.1, ()).to_dict()}, "of 0 labels for 4"),
    ],
)
def test_wrong_metadata_is_named(change, said):
    data = {k: v for k, v in {**make_metadata().to_dict(), **change}.items() if v is not ...}
    with pytest.raises(ModelError, match=rf"^x/model\.json: .*{said}.*$"):
        ModelMetadata.from_dict(data, "x/model.json")


def test_a_file_that_holds_no_metadata_is_one_line(placeholder_run, tmp_path):
    path = tmp_path / "model.json"
    for content in (b"", b"{", b"\xff\xfe", b"[]"):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"model\.json: model metadata must.*$"):
            ModelMetadata.read_json(path)
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match="existing file"):
        ModelMetadata.read_onnx(path)
    whole = (placeholder_run / "fold0" / "model.onnx").read_bytes()
    for keep in (0, 1, 100, -1):
        path.write_bytes(whole[:keep])
        with pytest.raises(ModelError, match=rf"model\.onnx: .*Received: {path.stat().st_size} bytes .*$"):
            ModelMetadata.read_onnx(path)
    model = onnx.load_from_string(whole)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"model\.onnx: .* Received: none\. Use a model\.onnx that"):
        ModelMetadata.read_onnx(path)


def test_check_shapes_names_both():
    metadata = make_metadata()
    metadata.check_shapes("m", (None, 32, 32, 1), ("batch", 4))
    metadata.check_shapes("m", ("batch", 32_000), ("batch", 4))
    for taken, labels in (((32, 64, 1), 4), ((32, 32, 1), 5), ((32, 32), 4), ((31_999,), 4)):
        with pytest.raises(ModelError, match=r"m: .*\[batch, 32.*\] -> \[batch, 4\]\. Received: \["):
            metadata.check_shapes("m", (None, *taken), (None, labels))


def test_label_sets_are_equal_or_the_difference_is_told():
    check_labels(LABELS, list(LABELS), "M", "T")
    for second, said in (
        (["a", "c", "b"], r"of M and T .*order at position 2: b / c$"),
        (
            ["a", "d", *map(str, range(9))],
            r"3 / 11 labels; only in T: d, 0, 1, 2, 3 and 5 more; only in M: b, c$",
        ),
    ):
        with pytest.raises(ModelError, match=said):
            check_labels(["a", "b", "c"], second, "M", "T")


def test_an_ensemble_is_called_by_its_run_and_folds():
    assert joined_id(["run/fold0", "run/fold2", "other/fold1"]) == "run/fold0+fold2+other/fold1"
    assert joined_id(["animals"]) == "animals"


def test_probabilities_and_logits_are_each_others_inverse():
    logits = np.linspace(-12, 12, 9, dtype=np.float32)
    np.testing.assert_allclose(logit(sigmoid(logits)), logits, atol=0.2)
    np.testing.assert_array_equal(sigmoid(np.array([-1000.0, 0.0, 1000.0])), [0, 0.5, 1])
    np.testing.assert_allclose(logit(np.array([0, 1], np.float32)), [-16.118, 16.118], atol=0.2)
