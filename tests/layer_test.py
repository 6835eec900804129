"""What every layer, loss and metric of the package has to pass."""

import inspect
import json

import keras
import numpy as np
from keras import ops
from keras.tree import flatten, map_shape_structure, map_structure


def as_array(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def assert_close(actual, expected, atol=1e-5):
    for a, b in zip(flatten(actual), flatten(expected), strict=True):
        np.testing.assert_allclose(as_array(a), as_array(b), rtol=1e-5, atol=atol)


def example(shapes, seed=0):
    """Arrays in [0, 1] for a shape, or a list or dict of them."""
    rng = np.random.default_rng(seed)
    return map_shape_structure(lambda shape: rng.random(shape, np.float32), shapes)


def assert_config_round_trips(instance):
    """From the config and from the serialised form; no argument of `__init__` is left out."""
    cls, config = type(instance), instance.get_config()
    form = keras.saving.serialize_keras_object(instance)
    for again in (cls.from_config(config), keras.saving.deserialize_keras_object(form)):
        assert type(again) is cls
        # As JSON holds it: tuples become lists.
        assert json.dumps(again.get_config()) == json.dumps(config)
    parameters = inspect.signature(cls.__init__).parameters.values()
    assert {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD} - {"self"} <= set(config)


def through_file(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)


def run_layer_test(layer, input_shape, output_shape, num_weights, tmp_path):
    """Checks shapes, dtypes, settings, saving and training of a layer.

    Args:
        layer: not yet built.
        input_shape: with the batch; a list or dict of shapes for several inputs.
        output_shape: in the same form.
        num_weights: arrays in all, and those that gradients change.
        tmp_path: where the model file goes.
    """
    assert_config_round_trips(layer)
    inputs = example(input_shape)
    outputs = flatten(layer(map_structure(ops.convert_to_tensor, inputs)))
    shapes = [x.shape for x in flatten(example(output_shape))]
    assert [tuple(x.shape) for x in outputs] == shapes
    assert {keras.backend.standardize_dtype(x.dtype) for x in (*outputs, *layer.weights)} == {"float32"}
    assert all(np.isfinite(as_array(x)).all() for x in outputs)
    assert (len(layer.weights), len(layer.trainable_weights)) == num_weights

    names = (
        {name: name for name in inputs} if isinstance(inputs, dict) else map_structure(lambda x: None, inputs)
    )
    symbolic = map_structure(lambda x, name: keras.Input(x.shape[1:], name=name), inputs, names)
    model = keras.Model(symbolic, layer(symbolic))
    assert [tuple(x.shape) for x in flatten(model.output)] == [(None, *x[1:]) for x in shapes]
    loaded = through_file(model, tmp_path)
    assert type(loaded.layers[-1]) is type(layer)
    assert_close(loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0))

    flat = [keras.layers.Flatten()(x) for x in flatten(model.output)]
    head = keras.layers.Dense(3)(flat[0] if len(flat) == 1 else ops.concatenate(flat, axis=-1))
    trained = keras.Model(model.input, head)
    before = [as_array(w) for w in trained.trainable_weights]
    trained.compile(keras.optimizers.SGD(0.1), "mse")
    trained.fit(inputs, example((shapes[0][0], 3), seed=1), epochs=2, verbose=0)
    for old, weight in zip(before, trained.trainable_weights, strict=True):
        assert np.isfinite(as_array(weight)).all()
        assert not np.array_equal(old, as_array(weight)), f"{weight.path} did not train"


def compiled(num_labels=4, loss="mse", metrics=None):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, keras.layers.Dense(num_labels)(inputs))
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=metrics)
    return model
