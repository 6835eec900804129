import json
import math

import onnx
import pytest
from placeholder import AUDIO, LABELS, MEL, make_metadata

from keras_birds.errors import ModelError
from keras_birds.models.metadata import ModelMetadata, check_labels
from keras_birds.models.session import open_session


def test_what_is_written_as_json_is_read_back_equal(tmp_path):
    metadata = make_metadata()
    metadata.write_json(tmp_path / "model.json")
    read = ModelMetadata.read_json(tmp_path / "model.json")
    assert read == metadata
    assert read.labels.items == LABELS.items
    assert list(tmp_path.iterdir()) == [tmp_path / "model.json"]


def test_undefined_metrics_are_null_in_json_and_nan_in_python():
    data = make_metadata(metrics={"macro_auc": math.nan}).to_dict()
    assert data["metrics"] == {"macro_auc": None}
    json.dumps(data, allow_nan=False)
    assert math.isnan(ModelMetadata.from_dict(data).metrics["macro_auc"])


def test_the_onnx_file_holds_the_metadata_and_plain_keys_for_other_programs(placeholder_run):
    path = placeholder_run / "fold0" / "model.onnx"
    metadata = ModelMetadata.read_onnx(path)
    assert metadata == ModelMetadata.read_json(path.with_name("model.json"))
    assert (metadata.audio, metadata.mel, metadata.labels.names) == (AUDIO, MEL, LABELS.names)
    props = {x.key: x.value for x in onnx.load(path).metadata_props}
    assert props["labels"].splitlines() == list(LABELS)
    assert (props["format_version"], props["sample_rate_hz"], props["clip_s"]) == ("1", "16000", "2")
    assert (props["model_id"], props["licence"]) == ("20250601-101500/fold0", "Apache-2.0")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, r"format_version 1\. Received: 2\. Update"),
        ({"labels": None}, "complete"),
        ({"labels": [{"name": "a"}, {"name": "a"}]}, "unique"),
        ({"audio": {"clip_s": -1}}, "clip_s"),
        ({"mel": {"n_mels": 64, "wrong": 1}}, "wrong"),
    ],
)
def test_wrong_metadata_is_named(change, said):
    with pytest.raises(ModelError, match=said) as caught:
        ModelMetadata.from_dict({**make_metadata().to_dict(), **change}, "x/model.json")
    assert str(caught.value).startswith("x/model.json: ")
    assert "\n" not in str(caught.value)


def test_missing_metadata_is_named():
    data = make_metadata().to_dict()
    del data["mel"]
    with pytest.raises(ModelError, match="nothing under 'mel'"):
        ModelMetadata.from_dict(data)
    with pytest.raises(ModelError, match="format_version"):
        ModelMetadata.from_dict([])  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_json_that_is_none_is_one_line(tmp_path, content):
    (tmp_path / "model.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.json: model metadata must") as caught:
        ModelMetadata.read_json(tmp_path / "model.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_onnx_file_is_one_line(placeholder_run, tmp_path, keep):
    whole = (placeholder_run / "fold0" / "model.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(whole[:keep])
    with pytest.raises(ModelError, match=r"model\.onnx: ") as caught:
        ModelMetadata.read_onnx(path)
    assert "\n" not in str(caught.value)


def test_an_onnx_file_without_metadata_says_where_to_get_one(placeholder_run, tmp_path):
    model = onnx.load(placeholder_run / "fold0" / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(ModelError, match=r"bare\.onnx: .* Received: none\. Use a model\.onnx that"):
        ModelMetadata.read_onnx(tmp_path / "bare.onnx")


def test_a_missing_onnx_file_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="existing file"):
        open_session(tmp_path / "none.onnx")


def test_check_shapes_names_both():
    metadata = make_metadata()
    metadata.check_shapes("m", (None, 32, 32, 1), ("batch", 4))
    for shapes in [
        ((None, 32, 64, 1), (None, 4)),
        ((None, 32, 32, 1), (None, 5)),
        ((None, 32, 32), (None, 4)),
    ]:
        with pytest.raises(ModelError, match=r"m: .*\[batch, 32, 32, 1\] -> \[batch, 4\]\. Received: \["):
            metadata.check_shapes("m", *shapes)


def test_equal_labels_pass():
    check_labels(LABELS, list(LABELS))


def test_labels_in_another_order_are_told_by_position():
    with pytest.raises(ModelError, match=r"model and the taxonomy .*order at position 2: b / c"):
        check_labels(["a", "b", "c"], ["a", "c", "b"])


def test_labels_that_one_side_lacks_are_told():
    with pytest.raises(ModelError) as caught:
        check_labels(["a", "b"], ["a", "c", *map(str, range(9))], "M", "T")
    assert "2 / 11 labels" in str(caught.value)
    assert "only in T: c, 0, 1, 2, 3 and 5 more" in str(caught.value)
    assert "only in M: b" in str(caught.value)
