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
from keras_birds.models.library import added_models
from keras_birds.models.preset_fetch import cache, fetch_preset

SOUND = np.sin(np.arange(32_000) * 0.47).astype("float32") / 2


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder as `python -m http.server` does, and keeps what was asked for; sends less than it promised."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.endswith("model.onnx") and self.server.together:
            self.server.together.wait(30)
        if self.path in self.server.broken:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"x" * 1000)
            return
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def web(tmp_path):
    def handler(*args):
        return Handler(*args, directory=str(tmp_path))

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked, server.broken, server.together = [], set(), None
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def user(tmp_path, monkeypatch):
    """A user with nothing fetched and nothing added."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_BIRDS_MODELS", str(tmp_path / "added"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def shared(placeholder_run, tmp_path_factory):
    """One fold as a shared model; read-only."""
    folder = tmp_path_factory.mktemp("shared") / "birds"
    keras_birds.save_preset(placeholder_run / "fold0", folder)
    return folder


@pytest.fixture
def birds(shared, tmp_path):
    return Path(shutil.copytree(shared, tmp_path / "birds"))


def relist(folder, **changes):
    """Lists the files as they are now: what is wrong with them is all that can be found."""
    names = [x for x in json.loads((folder / "preset.json").read_text())["files"] if (folder / x).is_file()]
    files = {x: (folder / x).read_bytes() for x in names}
    listed = {k: {"size": len(x), "sha256": hashlib.sha256(x).hexdigest()} for k, x in files.items()}
    (folder / "preset.json").write_text(json.dumps({"format_version": 1, "files": listed} | changes))
    return listed


def kept():
    return sorted(x.name for x in cache().glob("*")) if cache().is_dir() else []


def test_a_run_is_shared_as_it_predicts_pinned_offline_and_added(
    placeholder_run, web, tmp_path, caplog, run_command
):
    expected = keras_birds.load(placeholder_run).predict(SOUND, 16_000)
    code, out, _ = run_command("models", "share", placeholder_run, "birds")
    address = out.splitlines()[1].rpartition(" ")[2]
    sha256 = hashlib.sha256(Path("birds/preset.json").read_bytes()).hexdigest()
    assert (code, address) == (0, f"birds@sha256:{sha256}")
    url = f"{web.url}/birds"
    for place in (address, "birds", url, f"{url}/@sha256:{sha256}"):
        found = keras_birds.load(place)
        assert len(found.engines) == 2
        np.testing.assert_array_equal(found.predict(SOUND, 16_000), expected)
    assert web.asked == ["/birds/preset.json"]  # what lies in the cache is fetched from nowhere
    assert preset_fetch.preset_of(found.engines[1].path) == f"{tmp_path}/birds@sha256:{sha256}"
    web.shutdown()
    web.server_close()
    assert not caplog.records
    np.testing.assert_array_equal(keras_birds.load(url).predict(SOUND, 16_000), expected)
    assert f"{url} can't be reached" in caplog.text
    assert f"sha256:{sha256}" in caplog.text
    run_command("models", "add", address, "--name", "owls")
    assert run_command("predict", "gone.wav", "--model", "owls")[2].count("gone.wav")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(
        ModelError, match=rf"^{url}: a shared model must have a preset.json .* Received: Connect"
    ):
        keras_birds.load(f"{url}@sha256:{sha256}")
    np.testing.assert_array_equal(keras_birds.load("owls").predict(SOUND, 16_000), expected)
    assert list(added_models()) == ["owls"]
    assert "owls  " in run_command("models")[1]


def test_the_keras_files_are_kerass_own(birds, placeholder_run):
    import keras

    original = keras.saving.load_model(placeholder_run / "fold0" / "model.keras")
    with zipfile.ZipFile("mine.keras", "w") as archive:
        for name in ("config.json", "metadata.json", "model.weights.h5"):
            archive.write(birds / name, name)
    images = np.random.default_rng(0).random((2, 32, 32, 1), np.float32)
    for place in ("mine.keras", str(birds)):
        again = keras.saving.load_model(place)
        np.testing.assert_array_equal(again.predict(images, verbose=0), original.predict(images, verbose=0))
    onnx_scores = keras_birds.load(birds).predict(SOUND, 16_000)
    np.testing.assert_allclose(
        keras_birds.load(birds, "keras").predict(SOUND, 16_000), onnx_scores, atol=1e-5
    )


def test_through_fsspec_and_a_card_that_hubs_read(tmp_path, caplog):
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    plain = write_constant_model(tmp_path / "plain.onnx", [0.0, 1, 2, 3], make_metadata(licence=""))
    address = keras_birds.save_preset(plain, "memory://hub/birds", licence="CC BY-NC 4.0")
    scores = keras_birds.load(address)
    assert scores.engines[0].metadata.licence == "CC BY-NC 4.0"
    assert preset_fetch.preset_of(scores.engines[0].path) == address
    card = memory.cat_file("/hub/birds/README.md").decode()
    front = card.split("---\n")[1]
    assert "license: cc-by-nc-4.0\n" in front
    assert "library_name: keras\n" in front
    assert "value: 0.9000" in front
    for part in (
        address,
        "| whtdov | Leptotila verreauxi | White-tipped Dove |",
        "Amazon River Frog",
        "| 0.9000 |",
    ):
        assert part in card
    memory.pipe_file("/hub/birds/README.md", b"my own words")
    keras_birds.save_preset(plain, "memory://hub/birds")
    assert memory.cat_file("/hub/birds/README.md") == b"my own words"
    shutil.rmtree(cache())
    with pytest.raises(ModelError, match=r"the model that was pinned, sha256:\w+\. Received: sha256:"):
        keras_birds.load(address)
    memory.rm("/hub/birds/preset.json")
    with pytest.raises(ModelError, match=r"Received: no such file\."):  # removed is not out of reach
        keras_birds.load("memory://hub/birds")
    assert not caplog.records


def test_targets_that_would_lose_something_or_cannot_be_written(
    placeholder_run, birds, tmp_path, monkeypatch
):
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


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_fetch_that_fails_leaves_nothing_and_what_comes_is_what_was_listed(birds, web, monkeypatch):
    url, weights = f"{web.url}/birds", birds / "model.weights.h5"
    good = weights.read_bytes()
    for bad in (good[:-1] + b"!", good[:-1], good + b"!"):
        weights.write_bytes(bad)
        with pytest.raises(
            ModelError, match=rf"^{url}/model.weights.h5: must be the file that preset.json lists"
        ):
            keras_birds.load(url)
    weights.write_bytes(good)
    web.broken = {"/birds/model.onnx"}
    with pytest.raises(ModelError, match=rf"^{url}/model.onnx: must be (readable|the file)"):
        keras_birds.load(url)
    assert kept() == []
    web.broken, web.asked = set(), []
    monkeypatch.setattr(preset_fetch, "_MAX_BYTES", 10_000)
    with pytest.raises(ModelError, match=r"must (fit in 10,000 bytes|list)"):
        keras_birds.load(url)
    assert web.asked == ["/birds/preset.json"]
    monkeypatch.undo()


def test_two_processes_fetch_one_model_at_once_and_a_killed_ones_rest_goes(birds, web):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    rest = cache() / f".{sha(birds / 'preset.json')}.{socket.gethostname()}.{gone.pid}.tmp"
    rest.mkdir(parents=True)
    web.together = threading.Barrier(2)
    code = f"from keras_birds.models.preset_fetch import *; print(fetch_preset('{web.url}/birds'))"
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    found = {x.communicate()[0].strip() for x in both}
    assert found == {str(cache() / sha(birds / "preset.json"))}
    assert sum(x.endswith("model.onnx") for x in web.asked) == 2
    assert len(kept()) == 2  # the model, and what the address held last


LAYER = {"module": "keras.layers", "registered_name": None, "config": {}}


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({**LAYER, "module": "os", "class_name": "system", "config": {"command": "touch pwned"}}, "os.system"),
        ({"module": "builtins", "class_name": "function", "config": "exec"}, "builtins.function"),
        ({**LAYER, "class_name": "Lambda", "config": {"function": "abs"}}, "keras.layers.Lambda"),
        ({"class_name": "__lambda__", "config": {"value": "4wEAAAA="}}, "__lambda__"),
        ({**LAYER, "module": "keras.utils", "class_name": "get_file"}, "keras.utils.get_file"),
        ({**LAYER, "class_name": "TFSMLayer", "config": {"filepath": "x"}}, "keras.layers.TFSMLayer"),
        ({**LAYER, "class_name": "Dense", "registered_name": "evil>Dense"}, "keras.layers.Dense"),
        ({**LAYER, "module": "keras_birds.nn.layers", "class_name": "os"}, "keras_birds.nn.layers.os"),
        ({**LAYER, "module": ["os"], "class_name": "Dense"}, "['os'].Dense"),
    ],
)  # fmt: skip
def test_a_configuration_that_names_anything_but_known_layers(birds, named, told):
    config = json.loads((birds / "config.json").read_text())
    config["config"]["layers"][1]["config"]["name"] = [{"deep": named}]
    (birds / "config.json").write_text(json.dumps(config))
    relist(birds)
    with pytest.raises(
        ModelError, match=f"birds/config.json: a shared model may name .* Received: .{re.escape(told)}"
    ):
        keras_birds.load(birds)
    assert not Path("pwned").exists()


def make_virtual(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "secret", (4,))
    file.create_virtual_dataset("evil", layout)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda x: x.__setitem__("evil", h5py.ExternalLink("other.h5", "secret")), "a link to elsewhere"),
        (lambda x: x.__setitem__("evil", h5py.SoftLink("/layers")), "a link to elsewhere"),
        (lambda x: x.create_dataset("evil", (4,), "f8", external=[("other.h5", 0, 32)]), "no numbers of its own"),
        (make_virtual, "packed numbers"),
        (lambda x: x.create_dataset("evil", (1 << 40,), "f4", chunks=(1 << 20,)), "packed numbers"),
        (lambda x: x.create_dataset("evil", (1 << 40,), "f4"), "bytes of numbers in a file of"),
        (lambda x: x["layers"].__setitem__("evil", x["/"]), "a second name"),
        (lambda x: x.__setitem__("evil", ["text"]), "no numbers of its own"),
    ],
)  # fmt: skip
def test_weights_that_lie_elsewhere_or_are_more_than_there_is(birds, spoil, told):
    with h5py.File("other.h5", "w") as file:
        file["secret"] = np.arange(4.0)
    with h5py.File(birds / "model.weights.h5", "a") as file:
        spoil(file)
    relist(birds)
    with pytest.raises(
        ModelError, match=f"birds/model.weights.h5: shared weights must be .* Received: .*{told}"
    ):
        keras_birds.load(birds)


def test_a_graph_whose_weights_lie_in_other_files(birds):
    whole, path = onnx.load(birds / "model.onnx"), birds / "model.onnx"
    onnx.save(whole, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    outside, graph = path.read_bytes(), onnx.load(path, load_external_data=False).graph
    inner = onnx.helper.make_graph([], "inner", [], [], initializer=[graph.initializer[0]])
    whole.graph.node.append(onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner))
    keras_birds.models.session.open_session(path)  # ONNX Runtime would read it
    told = {outside: "weights in another file", whole.SerializeToString(): "weights in another file"}
    for data, why in (told | {b"\x3a\xff\xff\x03": "a damaged file"}).items():
        path.write_bytes(data)
        relist(birds)
        with pytest.raises(
            ModelError, match=f"birds/model.onnx: a shared ONNX .* weights itself. Received: {why}"
        ):
            keras_birds.load(birds)


ONE = {"size": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([], "'list'"),
        ({}, "no file"),
        ({"model.onnx": {"size": 1}}, "nothing under 'sha256'"),
        ({"model.onnx": {**ONE, "sha256": "x"}}, "model.onnx of 1 bytes with SHA-256 'x'"),
        ({"model.onnx": {**ONE, "size": 1 << 60}}, "of 1152921504606846976 bytes"),
        ({"model.onnx": {**ONE, "size": -1}}, "of -1 bytes"),
        ({"model.onnx": ONE}, "only model.onnx"),
        ({"fold0/model.onnx": ONE, "fold1/model.json": ONE}, "the same files each"),
        *(({x: ONE}, "which is no file of a model") for x in ("../../x", "/etc/passwd", "fold0/../x", "a.pkl")),
    ],
)  # fmt: skip
def test_a_list_that_asks_for_what_is_no_model(birds, files, told):
    rule = "birds: preset.json must list .* Received: .*"
    (birds / "preset.json").write_text(json.dumps({"format_version": 1, "files": files}))
    with pytest.raises(ModelError, match=rule + told):
        fetch_preset(birds)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, " " * (1 << 26), '{"format_version": 2}'])
def test_a_list_that_is_none(birds, text):
    (birds / "preset.json").write_text(text)
    with pytest.raises(ModelError, match=r"birds: preset.json must list"):
        fetch_preset(birds)
