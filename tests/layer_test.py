"""What every layer, loss and metric of the package has to pass, on every backend."""

import keras
import numpy as np
from keras import ops

RTOL = ATOL = 1e-5


def as_array(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def assert_close(actual, expected, atol=ATOL):
    actual, expected = keras.tree.flatten(actual), keras.tree.flatten(expected)
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(as_array(a), as_array(b), rtol=RTOL, atol=atol)


def example(shapes, seed=0):
    """Arrays in [0, 1] for a shape, or a list or dict of them."""
    rng = np.random.default_rng(seed)
    if isinstance(shapes, dict):
        return {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    if isinstance(shapes, list):
        return [rng.random(shape, np.float32) for shape in shapes]
    return rng.random(shapes, np.float32)


def assert_config_round_trips(instance, serialise, deserialise):
    """`from_config(get_config())` and the serialised form give the same settings, twice over."""
    config = instance.get_config()
    again = type(instance).from_config(config)
    assert type(again) is type(instance)
    assert as_plain(again.get_config()) == as_plain(config)
    restored = deserialise(serialise(instance))
    assert type(restored) is type(instance)
    assert as_plain(restored.get_config()) == as_plain(config)
    # Every argument of `__init__` that was stored comes back under its own name.
    assert set(own_arguments(type(instance))) <= set(config)


def as_plain(config):
    """A config as JSON would hold it: tuples become lists."""
    if isinstance(config, dict):
        return {key: as_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [as_plain(value) for value in config]
    return config


def own_arguments(cls):
    import inspect

    parameters = inspect.signature(cls.__init__).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]


def run_layer_test(
    cls,
    init_kwargs,
    input_shape,
    expected_output_shape,
    tmp_path,
    expected_num_weights=None,
    expected_num_trainable=None,
    supports_unknown_size=True,
):
    """Checks building, shapes, dtypes, settings, saving and training of a layer.

    Args:
        cls: the layer's class.
        init_kwargs: arguments of its `__init__`.
        input_shape: with the batch; a list or dict of shapes for several inputs.
        expected_output_shape: in the same form.
        tmp_path: where the model file goes.
        expected_num_weights: arrays, trainable and other.
        expected_num_trainable: arrays that gradients change.
        supports_unknown_size: whether a symbolic call with unknown batch works.

    Returns:
        The layer, built.
    """
    layer = cls(**init_kwargs)
    assert_config_round_trips(
        layer, keras.saving.serialize_keras_object, keras.saving.deserialize_keras_object
    )
    inputs = example(input_shape)

    # Building and shapes: what is promised is what comes.
    outputs = layer(keras.tree.map_structure(ops.convert_to_tensor, inputs))
    assert layer.built
    keras.tree.map_structure_up_to(
        outputs, lambda out, shape: _assert_shape(out, shape), outputs, expected_output_shape
    )
    for out in keras.tree.flatten(outputs):
        assert keras.backend.standardize_dtype(out.dtype) == "float32"
        assert np.isfinite(as_array(out)).all()
    for weight in layer.weights:
        if not weight.path.endswith("seed_generator_state"):
            assert keras.backend.standardize_dtype(weight.dtype) == "float32"
    if expected_num_weights is not None:
        assert len(layer.weights) == expected_num_weights
    if expected_num_trainable is not None:
        assert len(layer.trainable_weights) == expected_num_trainable

    # In a model: symbolic shapes, a file that is safe to load, equal outputs.
    symbolic = _symbolic(inputs)
    model = keras.Model(symbolic, layer(symbolic))
    for out, shape in zip(keras.tree.flatten(model.output), _flat_shapes(expected_output_shape), strict=True):
        assert tuple(out.shape) == (None, *shape[1:])
    before = model.predict(inputs, verbose=0)
    path = tmp_path / f"{cls.__name__}.keras"
    model.save(path)
    loaded = keras.saving.load_model(path, safe_mode=True)
    assert type(loaded.layers[-1]) is cls
    assert_close(loaded.predict(inputs, verbose=0), before)

    _assert_trains(model, inputs, expected_output_shape)
    return layer


def _assert_trains(model, inputs, expected_output_shape):
    """A step of `fit` changes every trainable weight and leaves all numbers finite."""
    flat = [ops.reshape(x, (-1, int(np.prod(x.shape[1:])))) for x in keras.tree.flatten(model.output)]
    head = keras.layers.Dense(3)(flat[0] if len(flat) == 1 else ops.concatenate(flat, axis=-1))
    trained = keras.Model(model.input, head)
    batch = _flat_shapes(expected_output_shape)[0][0]
    before = [as_array(w) for w in trained.trainable_weights]
    trained.compile(keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError())
    history = trained.fit(inputs, example((batch, 3), seed=1), batch_size=batch, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    for old, weight in zip(before, trained.trainable_weights, strict=True):
        assert np.isfinite(as_array(weight)).all()
        assert not np.array_equal(old, as_array(weight)), f"{weight.path} did not train"


def _symbolic(inputs):
    if isinstance(inputs, dict):
        return {name: keras.Input(array.shape[1:], name=name) for name, array in inputs.items()}
    if isinstance(inputs, list):
        return [keras.Input(array.shape[1:]) for array in inputs]
    return keras.Input(inputs.shape[1:])


def _assert_shape(out, shape):
    assert tuple(out.shape) == tuple(shape)


def _flat_shapes(shapes):
    if isinstance(shapes, dict):
        return [shapes[name] for name in sorted(shapes)]
    return shapes if isinstance(shapes, list) else [shapes]


def run_loss_test(loss, tmp_path):
    """Checks settings, saving inside a compiled model, and that `fit` lowers the loss on one batch."""
    assert_config_round_trips(loss, keras.losses.serialize, keras.losses.deserialize)
    model = _compiled(loss=loss)
    inputs, targets = example((8, 5)), (example((8, 4), seed=1) > 0.5).astype("float32")
    losses = model.fit(inputs, targets, epochs=20, batch_size=8, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    path = tmp_path / "loss.keras"
    model.save(path)
    loaded = keras.saving.load_model(path, safe_mode=True)
    assert type(loaded.loss) is type(loss)
    np.testing.assert_allclose(
        loaded.evaluate(inputs, targets, verbose=0), model.evaluate(inputs, targets, verbose=0), rtol=1e-5
    )


def run_metric_test(metric, num_labels, tmp_path):
    """Checks settings, dtypes, resetting, the stateless form, `fit` and `evaluate`, and saving in a model."""
    assert_config_round_trips(metric, keras.metrics.serialize, keras.metrics.deserialize)
    targets = (example((16, num_labels)) > 0.5).astype("float32")
    scores = example((16, num_labels), seed=1)
    for variable in metric.variables:
        assert keras.backend.standardize_dtype(variable.dtype) == "float32"
    metric.update_state(targets, scores)
    value = float(metric.result())
    state = metric.stateless_update_state(metric.stateless_reset_state(), targets, scores)
    assert float(metric.stateless_result(state)) == value
    metric.reset_state()
    metric.update_state(targets[:8], scores[:8])
    metric.update_state(targets[8:], scores[8:])
    np.testing.assert_allclose(float(metric.result()), value, rtol=1e-5)

    model = _compiled(num_labels, metrics=[metric])
    inputs = example((16, 5), seed=2)
    history = model.fit(inputs, targets, batch_size=8, verbose=0, validation_data=(inputs, targets)).history
    assert np.isfinite(history[metric.name]).all()
    after = model.evaluate(inputs, targets, verbose=0, return_dict=True)[metric.name]
    np.testing.assert_allclose(history[f"val_{metric.name}"][-1], after, rtol=1e-5)
    path = tmp_path / "metric.keras"
    model.save(path)
    loaded = keras.saving.load_model(path, safe_mode=True)
    again = loaded.evaluate(inputs, targets, verbose=0, return_dict=True)[metric.name]
    np.testing.assert_allclose(again, after, rtol=1e-5)


def _compiled(num_labels=4, loss="mse", metrics=None):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, keras.layers.Dense(num_labels)(inputs))
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=metrics)
    return model
