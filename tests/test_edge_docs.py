"""The programs in docs/edge.md do what the document says, with the shipped model's export."""

import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import soundfile
from app_browser import CHROMIUM, DRIVER, Visitor, until
from placeholder import LABELS, TONES_HZ

import keras_birds
from keras_birds.app.example import write_example

DOCUMENT = Path(keras_birds.__file__).parents[1] / "docs" / "edge.md"

pytestmark = pytest.mark.slow


def export(model, out, folder):
    command = [sys.executable, "-m", "keras_birds", "export", model, "--out", out]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With `sound.onnx`, and the example's clip of a cat as `clip.ogg` and `clip.flac`."""
    found = tmp_path_factory.mktemp("edge")
    export("animals", "sound.onnx", found)
    write_example(found / "example.flac")
    sound, rate_hz = soundfile.read(found / "example.flac")
    for name in ("clip.ogg", "clip.flac"):  # a browser decodes OGG a little differently
        soundfile.write(found / name, sound[10 * rate_hz : 15 * rate_hz], rate_hz)
    return found


def program(language, says=""):
    """The first block of a language that says so."""
    found = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return next(x for x in found if says in x)


def run_python(says, folder):
    return subprocess.check_output([sys.executable, "-c", program("python", says)], cwd=folder, text=True)


def check(answer, folder, model="animals", label="cat", clip="clip.ogg"):
    name, score = answer.split()
    expected = keras_birds.load(model).scores(folder / clip)[label][0]
    assert (name, float(score)) == (label, pytest.approx(expected, abs=1e-3))
    assert expected > 0.6


def test_python(folder):
    check(run_python("import onnxruntime", folder), folder)


def test_litert(placeholder_run, tmp_path, write_tone):
    write_tone("clip.ogg", TONES_HZ[2], seconds=2, rate=16_000)
    export(placeholder_run / "fold0", "sound.tflite", tmp_path)
    check(run_python("ai_edge_litert", tmp_path), tmp_path, placeholder_run / "fold0", LABELS[2])


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
@pytest.mark.parametrize("model", ["sound.onnx", "sound.xml"])
def test_cpp(folder, model):
    if model == "sound.xml":
        export("animals", model, folder)
    (folder / "hear.cpp").write_text(program("cpp").replace("sound.onnx", model))
    sound, _ = soundfile.read(folder / "clip.ogg", dtype="float32")
    sound.tofile(folder / "clip.f32")
    # `python` of the document is the one that runs the tests.
    paths = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-ec", program("bash", "g++")], cwd=folder, env=paths, check=True)
    check(subprocess.check_output(["./hear"], cwd=folder, text=True), folder)


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
@pytest.mark.skipif(not shutil.which("npm"), reason="needs npm")
def test_javascript(folder, tmp_path):
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "onnxruntime-web@1.30"]
    subprocess.run(install, cwd=tmp_path, check=True, timeout=200, capture_output=True)
    for file in (tmp_path / "node_modules" / "onnxruntime-web" / "dist").glob("ort*wasm*"):
        shutil.copy(file, folder)
    (folder / "index.html").write_text(program("html"))
    (folder / "labels.txt").write_text("\n".join(keras_birds.load("animals").labels))
    server = ThreadingHTTPServer(("localhost", 0), partial(SimpleHTTPRequestHandler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with server, Visitor(f"http://localhost:{server.server_port}", tmp_path) as visitor:
        visitor.open("index.html")
        answer = until(lambda: visitor.text() if "listening" not in visitor.text() else "")
        server.shutdown()
    check(answer, folder, clip="clip.flac")
