"""Recordings and folds over a Ray cluster: bad addresses, shares of nodes; and real clusters with kills."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import foreign
import numpy as np
import pytest
from placeholder import TONES_HZ, write_constant_model

from keras_birds.distributed import cluster, predict
from keras_birds.distributed.cluster import Node, check_address, connect
from keras_birds.distributed.predict import ClusterScorer, divide
from keras_birds.distributed.train import fold_resources, train_on_cluster
from keras_birds.distributed.worker import GroupScores, PackedModel, score_group
from keras_birds.errors import ConfigError, KerasBirdsError, ModelError
from keras_birds.inference.classifier import load
from keras_birds.inference.scorer import ScoreOptions, score_recordings
from keras_birds.models.foreign import ForeignModel, add_foreign
from keras_birds.results.results import Results

# Ray's own lock on the tests' clusters, with a key that nobody keeps; read when Ray is imported.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def test_no_cluster_address_or_ray_is_told_at_once(run_command, write_tone, tmp_path, monkeypatch):
    said = r"--ray must be auto, local, HOST:PORT or ray://HOST:PORT\. Received: "
    for address in ("", "everywhere", "host", "host:", ":6379", "http://host:6379", "host:port"):
        with pytest.raises(ConfigError, match=f"{said}{address}$"):
            check_address(address)
    model, out = write_constant_model(tmp_path / "model.onnx", [0.0] * 4), tmp_path / "out"
    detect = ("detect", write_tone("a.wav"), "--model", model, "--out", out, "--ray")
    for form in ("127.0.0.1:{}", "ray://127.0.0.1:{}"):
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = form.format(server.getsockname()[1])
        code, _, err = run_command(*detect, address)
        assert (code, err.count("\n")) == (1, 1)
        assert f"Received: {address} (ConnectionRefusedError: " in err
        assert "Start one with `ray start" in err
    monkeypatch.setitem(sys.modules, "ray", None)
    for command in (detect, ("train", "--data", tmp_path, "--fold", "all", "--ray")):
        code, _, err = run_command(*command, "auto")
        assert (code, err.count("\n")) == (2, 1)
        assert "pip install 'keras-birds[ray]'" in err
    assert not out.exists()


def test_nodes_are_divided_groups_grow_to_what_takes_seconds_and_have_absolute_paths(tmp_path, monkeypatch):
    for nodes, asked, uses_gpus, *expected in (
        ([Node(2)], None, True, (2, 0), 1),
        ([Node(16), Node(40)], None, True, (4, 0), 14),
        ([Node(6)], None, True, (3, 0), 2),
        ([Node(64), Node(2)], None, True, (2, 0), 33),
        ([Node(8), Node(4)], 3, True, (3, 0), 3),
        ([Node(8), Node(2)], 3, True, (2, 0), 5),
        ([Node(8, 2), Node(12, 4), Node(8)], None, True, (3, 1), 6),
        ([Node(8, 2)], None, False, (4, 0), 2),
        ([Node(1, 4)], None, True, (1, 1), 1),
    ):
        assert divide(nodes, asked, uses_gpus) == tuple(expected)
    assert fold_resources([Node(8), Node(8)]) == fold_resources([Node(8), Node(4)]) == (8, 0)
    assert fold_resources([Node(2), Node(64), Node(48)]) == (48, 0)
    assert fold_resources([Node(64), Node(32, 4), Node(12, 1)]) == (8, 1)
    with pytest.raises(KerasBirdsError, match="nodes with processors"):
        fold_resources([])
    for size, count, seconds, expected in (
        (1, 1, 0.1, 2),
        (64, 64, predict.GROUP_S, 64),
        (64, 64, 2 * predict.GROUP_S, 32),
        (8, 1, 100 * predict.GROUP_S, 1),
        (500, 500, 0.0, 500),
    ):
        assert predict._next_size(size, GroupScores((None,) * count, seconds, "host")) == expected
    monkeypatch.chdir(tmp_path)
    names = ("a/../b.wav", "/disk/c.wav", "s3://bucket/d.wav", "caf\udce9.wav")
    expected = (f"{tmp_path}/a/../b.wav", *names[1:3], f"{tmp_path}/caf\udce9.wav")
    assert predict._Group(names).places == expected


@pytest.mark.parametrize("engine", ["onnx", "keras", "foreign"])
def test_a_packed_model_is_loaded_elsewhere(placeholder_run, write_tone, tmp_path, monkeypatch, engine):
    clip, run = write_tone("clip.wav", 3000.0), shutil.copytree(placeholder_run, tmp_path / "copy")
    if engine == "foreign":
        model = ForeignModel(foreign.write_model(tmp_path / "a.onnx"), tmp_path / "labels.txt", 48_000, 3.0)
        model.labels.write_text("a\nb\nc")
        monkeypatch.setenv("KERAS_BIRDS_MODELS", str(run))
        classifier = load(add_foreign(model, "tones"))
    else:
        classifier = load(run, engine)
    packed = PackedModel.of(classifier, None if engine == "keras" else "cpu")
    run.rename(tmp_path / "gone")
    other = packed.load()
    assert [(type(x), x.path) for x in other.engines] == [(type(x), x.path) for x in classifier.engines]
    assert (other.model_id, other.labels) == (classifier.model_id, classifier.labels)
    scores, expected = (x.scores(clip).iloc[:, 2:].to_numpy() for x in (other, classifier))
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    object.__setattr__(packed, "version", "9.9")
    with pytest.raises(ConfigError, match=r"must have keras-birds 9\.9"):
        packed.load()


SETTINGS = {"num_cpus": 1, "object_store_memory": 1 << 27}


@pytest.fixture(scope="module")
def two_nodes():
    """A cluster of two nodes with a processor each, and this process connected to it."""
    check_address("local")
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args=SETTINGS | {"include_dashboard": False})
    try:
        found.add_node(**SETTINGS)
        with connect(found.address):
            yield found
    finally:
        found.shutdown()


@pytest.fixture
def batch(tmp_path, write_tone):
    """A folder with recordings of all lengths, one of them no audio, and a model."""
    write_constant_model(tmp_path / "model.onnx", [0.5, -0.5, -3.0, 2.0])
    for k in range(80):
        name = f"disk/{k:03d}_20250601_{k % 24:02d}0000.flac"
        write_tone(name, TONES_HZ[k % 4], seconds=3 + k % 7, rate=16_000)
    (tmp_path / "disk" / "bad.flac").write_text("no audio")
    return tmp_path


@pytest.fixture
def names(batch, monkeypatch):
    """The batch's recordings, relative to the folder that is the current one now; groups take little time."""
    monkeypatch.chdir(batch)
    monkeypatch.setattr(predict, "GROUP_S", 0.1)
    return sorted(f"disk/{x.name}" for x in (batch / "disk").iterdir())


OPTIONS = ScoreOptions(overlap_s=1)


def assert_as_on_one_machine(found, names):
    for x, y in zip(found, score_recordings(load("model.onnx"), names, OPTIONS), strict=True):
        assert str(x.recording) == str(y.recording)
        assert np.array_equal(x.start_s, y.start_s)
        np.testing.assert_allclose(x.scores, y.scores, atol=1e-5)


def test_workers_that_are_killed_lose_and_double_nothing(names, tmp_path, monkeypatch, capfd):
    """One dies with its work done; one recording kills whoever reads it."""
    deadly = "disk/037_20250601_130000.flac"

    def score_and_die(model, places, options):
        if any("/005_" in x for x in places) and not (tmp_path / "killed").exists():
            score_group(model, places, options)
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if any(x.endswith(deadly) for x in places):
            os.kill(os.getpid(), signal.SIGKILL)
        return score_group(model, places, options)

    monkeypatch.setattr(predict, "score_group", score_and_die)
    said, scored_s, model = [], [], load("model.onnx")
    with connect("local"), ClusterScorer(model, say=said.append) as scorer:
        # As commands ask for it; what comes from elsewhere comes whole.
        found = list(scorer(model, names, replace(OPTIONS, part_windows=2), scored_s.append))
    given_up = found.pop(names.index(deadly))
    names.remove(deadly)
    assert_as_on_one_machine(found, names)
    why = (deadly, "corrupt", "3 worker processes died while they read it")
    assert (given_up.recording.file, given_up.recording.status, given_up.recording.reason) == why
    assert given_up.scores.shape == (0, 4)
    expected_s = sum(x.recording.seconds - x.recording.unscored_s for x in found)
    assert sum(scored_s) == pytest.approx(expected_s)
    assert len(said) == 4
    assert all(re.match(r"A worker died \(killed or crashed\); ", x) for x in said)
    assert sum("given up" in x for x in said) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_node_that_goes_loses_nothing_and_one_that_comes_is_counted(names, monkeypatch, two_nodes):
    def slow(model, places, options):
        time.sleep(0.2)
        return score_group(model, places, options)

    monkeypatch.setattr(predict, "_LOOK_EVERY_S", 0.2)
    monkeypatch.setattr(predict, "score_group", slow)
    node, found, model = two_nodes.add_node(**SETTINGS), [], load("model.onnx")

    def wait_for_slots(count):
        while scorer._slots != count:
            scorer._look()
            time.sleep(0.1)

    with ClusterScorer(model) as scorer:
        wait_for_slots(3)
        for scored in scorer(model, names, OPTIONS, lambda _: None):
            found.append(scored)
            if len(found) == 10:
                two_nodes.remove_node(node, allow_graceful=False)
        assert_as_on_one_machine(found, names)
        wait_for_slots(2)
        node = two_nodes.add_node(**SETTINGS)
        wait_for_slots(3)
    two_nodes.remove_node(node, allow_graceful=False)


@pytest.mark.slow
@pytest.mark.usefixtures("two_nodes")
def test_errors_of_workers_and_of_options_are_one_line(names, tmp_path, monkeypatch):
    model, names = load("model.onnx"), names[5:6]
    bad = write_constant_model(tmp_path / "nan.onnx", [float("nan")] * 4)
    said = r"nan\.onnx: the model must give"
    with ClusterScorer(load(bad)) as scorer, pytest.raises(ModelError, match=said):
        list(scorer(model, names, OPTIONS, lambda _: None))

    def blind(model, places, options):
        return score_group(model, tuple(f"{x}.gone" for x in places), options)

    monkeypatch.setattr(predict, "score_group", blind)
    with ClusterScorer(model) as scorer:
        for options, said in (
            (ScoreOptions(overlap_s=99), "overlap"),
            (OPTIONS, r"every node sees them.*Received: .*050000\.flac, which node"),
        ):
            with pytest.raises(ConfigError, match=said):
                list(scorer(model, names, options, lambda _: None))


@pytest.mark.slow
@pytest.mark.usefixtures("two_nodes")
def test_a_cluster_whose_processors_are_taken_is_given_up(batch, monkeypatch):
    import ray

    @ray.remote(num_cpus=1)
    def hold():
        time.sleep(60)

    held, said = [hold.remote() for _ in range(sum(x.cpus for x in cluster.nodes()))], []
    time.sleep(2)
    monkeypatch.setattr(predict, "_TELL_AFTER_S", 0.5)
    monkeypatch.setattr(predict, "_GIVE_UP_S", 2.0)
    with pytest.raises(KerasBirdsError, match=r"free\. Received: none for 2 s"):
        ClusterScorer(load(batch / "model.onnx"), say=said.append).__enter__()
    for task in held:
        ray.cancel(task, force=True)
    assert "Waiting for the cluster's processors" in said[0]


@pytest.mark.slow
@pytest.mark.usefixtures("names")
def test_the_command_goes_on_after_ctrl_c_and_gives_the_same_files(run_command, monkeypatch):
    detect, add, done = ("detect", "disk", "--model", "model.onnx", "--out"), Results.add, []

    def interrupted(self, scored):
        done.append(scored)
        if len(done) == 30:
            raise KeyboardInterrupt
        return add(self, scored)

    code, printed, _ = run_command(*detect, "plain")
    assert code == 1
    monkeypatch.setattr(Results, "add", interrupted)
    code, _, err = run_command(*detect, "ray", "--ray", "local")
    assert (code, err.splitlines()[-1]) == (130, "Stopped.")
    code, out, err = run_command(*detect, "ray", "--ray", "local")
    assert (code, out) == (1, printed.replace("plain", "ray"))
    assert "81 recordings: 51 scored, 29 scored before, 1 failed" in err
    for name in ("detections.csv", "manifest.csv", "summary.csv", "activity.csv"):
        assert Path("plain", name).read_bytes() == Path("ray", name).read_bytes()


@pytest.mark.slow
def test_what_listens_and_is_not_ray_is_given_up(tmp_path):
    """In another process: what is left behind of Ray may end its process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        code = "import keras_birds.distributed.cluster as c; c._CONNECT_S = 3.0; "
        command = [sys.executable, "-c", f"{code}c.connect({address!r}).__enter__()"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    said = f"KerasBirdsError: --ray must name a cluster that runs and answers. Received: {address}"
    assert said in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fold_s_task_that_is_killed_goes_on_and_ends_as_without_ray(tmp_path, two_nodes, monkeypatch):
    import small_run as small
    import torch

    from keras_birds.training.train import train

    data, config = small.make_data(tmp_path / "birds"), small.make_config(epochs=6)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as on a node with one processor: sums are of another order with two
    here = train(config, data, "all", tmp_path / "here")
    torch.set_num_threads(threads)

    class Killer(small.Watcher):
        def log(self, line):
            super().log(line)
            if found := re.match(r"fold 1: on \S+, process (\d+)", line):
                self.pid = int(found[1])
            if line.startswith("fold 1: epoch 1/") and self.pid:
                os.kill(self.pid, signal.SIGKILL)
                self.pid = None

    killer = Killer()
    there = train_on_cluster(two_nodes.address, config, data, "all", tmp_path / "there", reporter=killer)
    assert killer.pid is not None
    goes_on = [x for x in killer.lines if re.match(r"fold 1: goes on after epoch [1-5]", x)]
    assert len(goes_on) == 1, killer.lines
    assert "each fold takes 1 processor of a node" in killer.lines
    assert small.files_below(tmp_path / "there") == small.files_below(tmp_path / "here")
    assert there.left_out == here.left_out == 2
    for a, b in zip(here.folds, there.folds, strict=True):
        assert (a.fold, a.kept_epoch, a.epochs) == (b.fold, b.kept_epoch, b.epochs)
        assert a.macro_auc == pytest.approx(b.macro_auc, abs=1e-5)
    # Nodes that don't see the data.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "cwd", lambda: Path("/nowhere"))
    said = r"storage that every node sees under the same name\. Received: /nowhere/birds"
    with pytest.raises(ConfigError, match=said):
        train_on_cluster(two_nodes.address, config, data.name, 0, tmp_path / "run")
