"""Shared models: written, fetched, verified, kept; what could run, read or fill anything is refused."""

import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import h5py
import numpy as np
import onnx
import pytest
from placeholder import make_metadata, write_constant_model

import keras_birds
from keras_birds.errors import ConfigError, KerasBirdsError, ModelError
from keras_birds.models import preset_fetch
from keras_birds.models.library import added_name
from keras_birds.models.preset_fetch import cache, fetch_preset, preset_of

SOUND = np.sin(np.arange(32_000) * 0.47).astype("float32") / 2


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder as `python -m http.server` does, keeps what was asked for, and may break off."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.endswith("model.onnx") and self.server.together:
            self.server.together.wait(30)
        if not self.path.endswith(self.server.broken):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        return self.wfile.write(b"x" * 1000)

    def log_message(self, *_):
        pass


@pytest.fixture
def web(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        server.asked, server.broken, server.together = [], "nothing", None
        server.url = f"http://127.0.0.1:{server.server_port}/birds"
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def user(tmp_path, monkeypatch):
    """A user with nothing fetched and nothing added."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_BIRDS_MODELS", str(tmp_path / "added"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def birds(placeholder_run, tmp_path):
    """One fold as a shared model."""
    keras_birds.save_preset(placeholder_run / "fold0", tmp_path / "birds")
    return tmp_path / "birds"


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refused(folder, told):
    """Lists the files as they are now, so that what is wrong with them is all that can be found."""
    names = [x for x in json.loads((folder / "preset.json").read_text())["files"] if (folder / x).is_file()]
    files = {x: {"size": (folder / x).stat().st_size, "sha256": sha(folder / x)} for x in names}
    (folder / "preset.json").write_text(json.dumps({"format_version": 1, "files": files}))
    with pytest.raises(ModelError, match=told):
        fetch_preset(folder)
    assert list(cache().glob("*")) == []


def test_a_run_is_shared_as_it_predicts(placeholder_run, web, tmp_path, caplog, run_command):
    def same(place):
        found = keras_birds.load(place)
        np.testing.assert_array_equal(found.predict(SOUND, 16_000), expected)
        return found

    expected = keras_birds.load(placeholder_run).predict(SOUND, 16_000)
    code, out, _ = run_command("models", "share", placeholder_run, "birds")
    address, pin = out.splitlines()[1].rpartition(" ")[2], f"@sha256:{sha(Path('birds/preset.json'))}"
    assert (code, address) == (0, f"birds{pin}")
    for place in (address, "birds", web.url, f"{web.url}/{pin}"):
        (one, two) = same(place).engines
    assert web.asked == ["/birds/preset.json"]  # what lies in the cache is fetched from nowhere
    assert preset_of(two.path) == preset_of(one.path) == f"{tmp_path}/birds{pin}"
    web.shutdown()
    web.server_close()
    assert not caplog.records
    same(web.url)
    assert re.search(f"{web.url} can't be reached .*{pin[1:]}", caplog.text)
    assert "Added owls: 4 labels" in run_command("models", "add", address, "--name", "owls")[1]
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(ModelError, match=rf"^{web.url}: a shared model must have .* Received: Connect"):
        keras_birds.load(web.url + pin)
    assert added_name(same("owls").engines[1].path) == "owls"
    assert "owls  " in run_command("models")[1]


def test_the_keras_files_are_kerass_own(birds, placeholder_run):
    import keras

    original = keras.saving.load_model(placeholder_run / "fold0" / "model.keras")
    with zipfile.ZipFile("mine.keras", "w") as archive:
        for name in ("config.json", "metadata.json", "model.weights.h5"):
            archive.write(birds / name, name)
    for place in ("mine.keras", str(birds)):
        for a, b in zip(keras.saving.load_model(place).weights, original.weights, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    scores = [keras_birds.load(birds, x).predict(SOUND, 16_000) for x in ("onnx", "keras")]
    np.testing.assert_allclose(*scores, atol=1e-5)


def test_through_fsspec_and_a_card_that_hubs_read(tmp_path, caplog):
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    plain = write_constant_model(tmp_path / "plain.onnx", [0.0, 1, 2, 3], make_metadata(licence=""))
    address = keras_birds.save_preset(plain, "memory://hub/birds", licence="CC BY-NC 4.0")
    (engine,) = keras_birds.load(address).engines
    assert (engine.metadata.licence, preset_of(engine.path)) == ("CC BY-NC 4.0", address)
    card = memory.cat_file("/hub/birds/README.md").decode()
    for part in ("license: cc-by-nc-4.0\n", "library_name: keras\n", "value: 0.9000"):
        assert part in card.split("---\n")[1]
    for part in (address, "| whtdov | Leptotila verreauxi | White-tipped Dove |", "| 0.9000 |"):
        assert part in card
    memory.pipe_file("/hub/birds/README.md", b"my own words")
    keras_birds.save_preset(plain, "memory://hub/birds")
    assert memory.cat_file("/hub/birds/README.md") == b"my own words"
    shutil.rmtree(cache())
    with pytest.raises(ModelError, match=r"the model that was pinned, sha256:\w+\. Received: sha256:"):
        keras_birds.load(address)
    keras_birds.load("memory://hub/birds")
    memory.rm("/hub/birds/preset.json")
    with pytest.raises(ModelError, match=r"Received: no such file\."):  # removed is not out of reach
        keras_birds.load("memory://hub/birds")
    assert not caplog.records


def test_targets_that_would_lose_something(placeholder_run, birds, tmp_path, monkeypatch):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    for target in ("notes", "notes/a.txt", str(placeholder_run)):
        with pytest.raises(ConfigError, match=r"^a model must be shared in a folder of its own"):
            keras_birds.save_preset(placeholder_run, target)
    with pytest.raises(ConfigError, match="licence"):
        keras_birds.save_preset(birds, "new", licence="MIT")
    with pytest.raises(KerasBirdsError, match=r"^http://127.0.0.1:9/birds can't be written"):
        keras_birds.save_preset(birds, "http://127.0.0.1:9/birds")
    assert keras_birds.save_preset(birds, birds) == f"{birds}@sha256:{sha(birds / 'preset.json')}"
    with pytest.raises(ConfigError, match=r"64 digits"):
        keras_birds.load(f"{birds}@sha256:abc")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'keras-birds\[remote\]'"):
        keras_birds.load("hf://user/birds")


def test_a_fetch_that_fails_leaves_nothing(birds, web, run_command, monkeypatch):
    weights = birds / "model.weights.h5"
    good = weights.read_bytes()
    for bad in (good[:-1] + b"!", good[:-1], good + b"!"):
        weights.write_bytes(bad)
        with pytest.raises(ModelError, match=rf"^{web.url}/model.weights.h5: must be the file that preset"):
            keras_birds.load(web.url)
    weights.write_bytes(good)
    assert f"Fetching {web.url}: 0.0 MB, once\n" in run_command("info", web.url)[2]
    shutil.rmtree(cache())
    web.broken = "/model.onnx"
    with pytest.raises(ModelError, match=rf"^{web.url}/model.onnx: must be (readable|the file)"):
        keras_birds.load(web.url)
    web.asked = []
    monkeypatch.setattr(preset_fetch, "_MAX_BYTES", max(x.stat().st_size for x in birds.iterdir()))
    with pytest.raises(ModelError, match=r"must fit in [0-9,]+ bytes"):
        keras_birds.load(web.url)
    assert (web.asked, list(cache().glob("*"))) == (["/birds/preset.json"], [])


def test_two_processes_fetch_one_model_at_once_and_a_killed_ones_rest_goes(birds, web):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    sha256 = sha(birds / "preset.json")
    (cache() / f".{sha256}.{socket.gethostname()}.{gone.pid}.tmp").mkdir(parents=True)
    web.together = threading.Barrier(2)
    code = f"from keras_birds.models.preset_fetch import *; print(fetch_preset('{web.url}'))"
    command = {"args": [sys.executable, "-c", code], "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(**command) for _ in range(2)]
    assert {x.communicate()[0].strip() for x in both} == {str(cache() / sha256)}
    assert web.asked.count("/birds/model.onnx") == 2
    assert sorted(x.suffix for x in cache().glob("*")) == ["", ".last"]


def test_a_configuration_that_names_anything_but_known_layers(birds):
    for module, name in (
        *(("os", "system"), ("builtins", "function"), (None, "__lambda__"), ("keras.utils", "get_file")),
        *(("keras.layers", "Lambda"), ("keras.layers", "TFSMLayer"), ("keras_birds.nn.layers", "os")),
        *(
            (["os"], "Dense"),
            ("keras.layers", "Dense"),
        ),  # the last by a name that anything may be registered under
    ):
        told = re.escape(".".join(str(x) for x in (module, name) if x))
        config = json.loads((birds / "config.json").read_text())
        evil = {
            "command": "touch pwned",
            "function": "exec",
            "filepath": "x",
            "origin": "http://127.0.0.1:9/",
        }
        registered = "evil>Dense" if name == "Dense" else None
        known = {"module": module, "class_name": name, "config": evil, "registered_name": registered}
        config["config"]["layers"][1]["config"]["name"] = [{"deep": known}]
        (birds / "config.json").write_text(json.dumps(config))
        refused(birds, f"birds/config.json: a shared model may name .* Received: .{told}")


def make_virtual(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "secret", (4,))
    file.create_virtual_dataset("evil", layout)


def test_weights_that_lie_elsewhere_or_are_more_than_there_is(birds):
    with h5py.File("other.h5", "w") as file:
        file["secret"] = np.arange(4.0)
    good = (birds / "model.weights.h5").read_bytes()
    for spoil, told in (
        (lambda x: x.__setitem__("evil", h5py.ExternalLink("other.h5", "secret")), "a link to elsewhere"),
        (lambda x: x.__setitem__("evil", h5py.SoftLink("/layers")), "a link to elsewhere"),
        (lambda x: x.create_dataset("evil", (4,), "f8", external=[("other.h5", 0, 32)]), "no numbers of"),
        (make_virtual, "packed numbers"),
        (lambda x: x.create_dataset("evil", (1 << 40,), "f4", chunks=(1 << 20,)), "packed numbers"),
        (lambda x: x.create_dataset("evil", (1 << 40,), "f4"), "bytes of numbers in a file of"),
        (lambda x: x["layers"].__setitem__("evil", x["/"]), "a second name"),
        (lambda x: x.__setitem__("evil", ["text"]), "no numbers of"),
    ):
        (birds / "model.weights.h5").write_bytes(good)
        with h5py.File(birds / "model.weights.h5", "a") as file:
            spoil(file)
        refused(birds, f"birds/model.weights.h5: shared weights must be .* Received: .*{told}")


def test_a_graph_whose_weights_lie_in_other_files(birds):
    path, whole = birds / "model.onnx", onnx.load(birds / "model.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    keras_birds.models.session.open_session(path)  # ONNX Runtime reads it
    weights = onnx.load(path, load_external_data=False).graph.initializer[:1]
    inner = onnx.helper.make_graph([], "inner", [], [], initializer=weights)
    whole.graph.node.append(onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner))
    told = dict.fromkeys((path.read_bytes(), whole.SerializeToString()), "weights in another file")
    for data, why in (told | {b"\x3a\xff\xff\x03": "a damaged file"}).items():
        path.write_bytes(data)
        refused(birds, f"birds/model.onnx: a shared ONNX .* weights itself. Received: {why}")


def test_a_list_that_asks_for_what_is_no_model(tmp_path):
    one = {"size": 1, "sha256": "0" * 64}
    rule = f"^{tmp_path}: preset.json must list .* Received: .*"
    for files, told in (
        ([], "'list'"),
        ({}, "no file"),
        ({"model.onnx": {"size": 1}}, "nothing under 'sha256'"),
        ({"model.onnx": {**one, "sha256": "x"}}, "model.onnx of 1 bytes with SHA-256 'x'"),
        ({"model.onnx": {**one, "size": 1 << 60}}, "of 1152921504606846976 bytes"),
        ({"model.onnx": {**one, "size": -1}}, "of -1 bytes"),
        ({"model.onnx": one}, "only model.onnx"),
        ({"fold0/model.onnx": one, "fold1/model.json": one}, "the same files each"),
        *(({x: one}, "no file of a model") for x in ("../../x", "/etc/passwd", "fold0/../x", "a.pkl")),
    ):
        (tmp_path / "preset.json").write_text(json.dumps({"format_version": 1, "files": files}))
        with pytest.raises(ModelError, match=rule + told):
            fetch_preset(tmp_path)
    for text in ("", "[]", "[" * 100_000, " " * (1 << 26), '{"format_version": 2}'):
        (tmp_path / "preset.json").write_text(text)
        with pytest.raises(ModelError, match=rule):
            fetch_preset(tmp_path)
