import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from placeholder import make_metadata

from keras_birds.export.weight_compression import MIN_ELEMENTS, halve_weights


@pytest.fixture
def model():
    """Two products by one shared weight, and a bias."""
    rng = np.random.default_rng(0)
    weights = {
        "weight": rng.normal(0, 1, (200, 200)).astype("float32"),
        "large": np.full((8, 200), 1e6, "float32"),
        "bias": rng.normal(0, 1, MIN_ELEMENTS - 1).astype("float32")[:1],
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "weight"], ["a"]),
            helper.make_node("MatMul", ["a", "weight"], ["b"]),
            helper.make_node("Mul", ["b", "bias"], ["c"]),
            helper.make_node("Add", ["c", "large"], ["logits"]),
        ],
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8, 200])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [8, 200])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(made, make_metadata().onnx_props())
    return made


def test_half_the_room_and_nearly_the_same_answers(model):
    halved = halve_weights(model)
    types = {x.name: x.data_type for x in halved.graph.initializer}
    assert types == {
        "weight_float16": TensorProto.FLOAT16,
        "large": TensorProto.FLOAT,
        "bias": TensorProto.FLOAT,
    }
    # A weight that is used twice is cast once.
    assert [x.op_type for x in halved.graph.node].count("Cast") == 1
    assert halved.ByteSize() < 0.6 * model.ByteSize()
    x = np.random.default_rng(1).normal(0, 1, (8, 200)).astype("float32")
    answers = [
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0] - 1e6
        for m in (model, halved)
    ]
    assert 0 < np.abs(answers[1] - answers[0]).max() < 2e-3 * np.abs(answers[0]).max()


def test_the_original_and_the_metadata_stay(model):
    before = model.SerializeToString()
    halved = halve_weights(model)
    assert model.SerializeToString() == before
    assert list(halved.metadata_props) == list(model.metadata_props)
    assert list(halved.graph.output) == list(model.graph.output)
