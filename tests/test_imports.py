import importlib
import os
import pkgutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from keras_birds.cli.data import data
from keras_birds.cli.main import cli

HEAVY = ("keras", "keras_hub", "torch", "tensorflow", "jax")


def python(code, folder, keras_json=None, **variables):
    """What a program of a few lines prints, without `KERAS_BACKEND` unless given."""
    env = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    env |= {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_HOME": str(folder), **variables}
    if keras_json is not None:
        (folder / "keras.json").write_text(keras_json)
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, cwd=folder, env=env, stdout=-1, text=True, check=True).stdout.strip()


def imported_by(folder, *args):
    """The modules that a command leaves behind."""
    code = f"""
import sys
from keras_birds.cli.main import main
sys.argv = ["keras-birds", *{list(map(str, args))}]
try:
    main()
finally:
    print("MODULES", *sys.modules)
"""
    return set(python(code, folder).rpartition("MODULES ")[2].split())


def test_help_imports_click_and_little_else(tmp_path):
    found = imported_by(tmp_path, "--help") & {*HEAVY, "click", "numpy", "pydantic", "pandas", "scipy"}
    assert found == {"click"}


def test_predict_with_an_onnx_model_imports_no_keras(placeholder_run, write_tone, tmp_path):
    command = (tmp_path, "predict", write_tone("clip.ogg", 1200.0), "--model", placeholder_run)
    modules = imported_by(*command, "--figure", tmp_path / "clip.png")
    assert {"onnxruntime", "matplotlib"} <= modules
    assert not modules & {*HEAVY, "librosa", "keras_birds.nn", "keras_birds.training"}
    assert "keras" in imported_by(*command, "--engine", "keras")  # so that this can fail


def test_what_isnt_installed_is_told_in_a_line_before_any_work(tmp_path):
    code = """
import sys
from keras_birds.cli.main import main
sys.stderr = sys.stdout
for missing, *words in (
    ("keras", "train", "--data", "."),
    ("sklearn", "evaluate", "run"),
    ("streamlit", "app"),
    ("ray", "detect", ".", "--model", "animals", "--out", "out", "--ray", "auto"),
):
    sys.modules[missing], sys.argv = None, ["keras-birds", *words]
    try:
        main()
    except SystemExit as end:
        print(end.code)
    del sys.modules[missing]
"""
    wanted = {
        "This needs the package keras": "keras-birds",
        "This needs the package scikit-learn": "keras-birds",
        "The app needs streamlit": "'keras-birds[app]'",
        "--ray auto needs ray": "'keras-birds[ray]'",
    }
    lines = [
        f"Error: {x}. Received: not installed here. Install it: pip install {y}" for x, y in wanted.items()
    ]
    assert python(code, tmp_path).splitlines() == [x for line in lines for x in (line, "2")]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [(), *((x,) for x in cli.lazy), *(("data", x) for x in data.commands)])
def test_every_command_has_help_with_an_example(words):
    answer = CliRunner().invoke(cli, [*words, "--help"])
    assert (answer.exit_code, answer.output[:6]) == (0, "Usage:")
    assert "keras-birds " + " ".join(words) in answer.output.partition("\n")[2]


def test_keras_finds_the_classes_whichever_is_imported_first(tmp_path):
    import keras

    import keras_birds

    model = keras.Sequential([keras.Input((32, 32, 1)), keras_birds.SpecAugment(), keras.layers.Flatten()])
    model.compile("sgd", keras_birds.MaskedBinaryCrossentropy(), [keras_birds.MaskedMacroAUC(1024)])
    model.save(tmp_path / "model.keras")
    for order in ("keras, keras_birds", "keras_birds, keras"):
        code = f"import {order}; model = keras.saving.load_model('model.keras')\n"
        code += "print(type(model.layers[0]).__name__, type(model.loss).__name__)"
        found = python(code, tmp_path, KERAS_BACKEND="torch")
        assert found == "SpecAugment MaskedBinaryCrossentropy"


def test_every_serializable_class_is_announced_to_keras():
    import keras

    from keras_birds import _SERIALIZABLE, nn

    for path in pkgutil.iter_modules(nn.__path__):
        importlib.import_module(f"keras_birds.nn.{path.name}")
    announced = {(f"keras_birds.{module}", x) for module, names in _SERIALIZABLE.items() for x in names}
    registry = keras.saving.get_custom_objects().items()
    assert {(x.__module__, x.__name__) for k, x in registry if k.startswith("keras_birds>")} == announced, (
        "name each class in keras_birds._SERIALIZABLE"
    )


@pytest.mark.parametrize(
    ("file", "variable", "wanted"),
    [
        (None, None, "torch"),
        ('{"backend": "tensorflow"}', None, "torch"),  # as Keras writes it by itself, asked or not
        ('{"backend": "jax"}', None, "jax"),
        ('{"backend": "jax"}', "tensorflow", "tensorflow"),
        ("{", None, "torch"),
    ],
)
def test_the_backend_is_the_variables_then_the_files_then_torch(tmp_path, file, variable, wanted):
    variables = {"KERAS_BACKEND": variable} if variable else {}
    code = f"import os, keras_birds, sys; print(os.environ['KERAS_BACKEND'], {{*{HEAVY}}} & {{*sys.modules}})"
    assert python(code, tmp_path, file, **variables) == f"{wanted} set()"  # and none is imported


def test_keras_imported_before_keeps_its_backend_and_a_warning_says_so(tmp_path):
    code = """if True:
    import keras, os, warnings
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        import keras_birds
    print(os.environ['KERAS_BACKEND'], *(x.message for x in said))
    """
    assert python(code, tmp_path, '{"backend": "jax"}') == "jax"
    # Keras reads its file once; a variable that is set later asks for another backend.
    late = code.replace("warnings\n", "warnings; os.environ['KERAS_BACKEND'] = 'torch'\n", 1)
    told = "jax keras was imported before keras_birds, on the jax backend; the default here is torch"
    assert python(late, tmp_path).startswith(told)
