"""Recordings and folds over a Ray cluster: order, regrouping, bad addresses; and, slow, real clusters with kills."""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from constant_model import write_constant_model
from placeholder import TONES_HZ
from test_waveform_engine import LABELS as FOREIGN_LABELS
from test_waveform_engine import RATE as FOREIGN_RATE
from test_waveform_engine import WINDOW_S as FOREIGN_WINDOW_S
from test_waveform_engine import write_model as write_foreign_model

from keras_birds.distributed import cluster, groups, predict
from keras_birds.distributed.cluster import Node, check_address, connect
from keras_birds.distributed.groups import MAX_LOSSES, Group, Groups
from keras_birds.distributed.predict import ClusterScorer
from keras_birds.distributed.train import fold_resources, train_on_cluster
from keras_birds.distributed.worker import PackedModel, Worker
from keras_birds.errors import ConfigError, KerasBirdsError, ModelError
from keras_birds.inference.classifier import Classifier, load
from keras_birds.inference.scorer import ScoreOptions, score_recordings
from keras_birds.labels import LabelSet
from keras_birds.models.waveform_engine import WaveformEngine
from keras_birds.results.detections import DetectionRules
from keras_birds.results.results import Results

# Ray's own lock on the tests' clusters, with a key that nobody keeps; read when Ray is imported.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

# --- groups ---------------------------------------------------------------------------------------------------------


def run_groups(names, rng, workers=4, deadly=(), limit=8, seconds=0.0):
    """Has groups done in any order by workers that may die; what came back, and every group that was given out."""
    batch, in_flight, given, found = Groups(iter(names)), [], [], []
    while not batch.is_over:
        while len(in_flight) < workers and (group := batch.take(limit)):
            in_flight.append(group)
            given.append(group)
        if in_flight:
            group = in_flight.pop(rng.integers(len(in_flight)))
            if any(x in deadly for x in group.names):
                for given_up in batch.lost(group):
                    batch.done(given_up, [f"{x} failed" for x in given_up.names])
            else:
                batch.done(group, list(group.names), seconds * len(group.names))
        found += batch.in_order()
    return found, given


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_results_come_in_order_each_once_whatever_ends_first(seed, count):
    names = [f"{i}.wav" for i in range(count)]
    found, _ = run_groups(names, np.random.default_rng(seed), workers=1 + seed)
    assert found == names


@pytest.mark.parametrize("seed", range(5))
def test_only_what_kills_three_workers_is_given_up(seed):
    names = [f"{i}.wav" for i in range(200)]
    found, given = run_groups(names, np.random.default_rng(seed), deadly={"50.wav", "51.wav"})
    assert found == [f"{x} failed" if x in ("50.wav", "51.wav") else x for x in names]
    for name in ("50.wav", "51.wav"):
        assert sum(name in x.names for x in given) == MAX_LOSSES
    assert all(len(x.names) == 1 for x in given if x.losses)


def test_groups_grow_to_what_takes_seconds_and_stay_one_where_recordings_are_long():
    names = [f"{i}.wav" for i in range(2000)]
    _, short = run_groups(names, np.random.default_rng(0), seconds=groups.GROUP_S / 50)
    assert max(len(x.names) for x in short) == 50
    _, long = run_groups(names, np.random.default_rng(0), seconds=10 * groups.GROUP_S)
    assert {len(x.names) for x in long} == {1}


def test_no_more_is_given_out_than_may_wait_for_its_turn():
    batch = Groups(f"{i}.wav" for i in range(100))
    first = batch.take(4)
    for _ in range(3):
        other = batch.take(4)
        batch.done(other, list(other.names), 100.0)
    assert batch.take(4) is None
    assert list(batch.in_order()) == []
    batch.done(first, list(first.names), 100.0)
    assert list(batch.in_order()) == [f"{i}.wav" for i in range(4)]
    assert batch.take(4).first == 4


def test_workers_get_absolute_paths_and_urls_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("a/../b.wav", "/disk/c.wav", "s3://bucket/d.wav", "caf\udce9.wav")
    assert Group(0, names).places == (
        f"{tmp_path}/a/../b.wav",
        "/disk/c.wav",
        "s3://bucket/d.wav",
        f"{tmp_path}/caf\udce9.wav",
    )


# --- the cluster ----------------------------------------------------------------------------------------------------


def test_without_ray_the_error_says_what_to_install(monkeypatch, run_command, tmp_path, write_tone):
    monkeypatch.setitem(sys.modules, "ray", None)
    model = write_constant_model(tmp_path / "model.onnx", [0.0] * 4)
    for command in (
        ("detect", write_tone("a.wav"), "--model", model, "--out", tmp_path / "out"),
        ("train", "--data", tmp_path, "--fold", "all"),
    ):
        code, _, err = run_command(*command, "--ray", "auto")
        assert code == 2
        assert err.count("\n") == 1
        assert "pip install 'keras-birds[ray]'" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "address", ["", "everywhere", "host", "host:", ":6379", "http://host:6379", "host:port"]
)
def test_what_is_no_address_is_a_wrong_call(address):
    with pytest.raises(
        ConfigError, match=r"--ray must be auto, local, HOST:PORT or ray://HOST:PORT\. Received: "
    ):
        check_address(address)


def test_answers_for_single_recordings_take_no_cluster(run_command, write_tone):
    code, _, err = run_command("predict", write_tone("a.wav"), "--ray", "local")
    assert code == 2
    assert "No such option '--ray'" in err


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_where_nothing_listens_is_told_at_once_and_leaves_nothing(run_command, write_tone, tmp_path, form):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = form.format(server.getsockname()[1])
    model = write_constant_model(tmp_path / "model.onnx", [0.0] * 4)
    began = time.monotonic()
    code, _, err = run_command(
        "detect", write_tone("a.wav"), "--model", model, "--out", tmp_path / "out", "--ray", address
    )
    assert time.monotonic() - began < 10
    assert code == 1
    assert err.count("\n") == 1
    assert f"Received: {address} (Connection refused)" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", b""])
def test_what_answers_and_is_not_ray_is_told(answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with (
            pytest.raises(KerasBirdsError, match="what answers isn't Ray"),
            connect(f"127.0.0.1:{server.getsockname()[1]}"),
        ):
            pass
        thread.join()


def test_what_listens_and_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(cluster, "_PROBE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"ray://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(KerasBirdsError, match=r"timed out.*Start one with `ray start"), connect(address):
            pass


@pytest.mark.parametrize(
    ("cpus", "gpus", "asked", "provider", "places"),
    [
        (2, 0, None, None, [(2, 0)]),
        (16, 0, None, None, [(16, 0)]),
        (40, 0, None, None, [(14, 0), (13, 0), (13, 0)]),
        (8, 0, 3, None, [(3, 0), (3, 0)]),
        (2, 0, 3, None, [(2, 0)]),
        (8, 2, None, None, [(4, 1), (4, 1)]),
        (8, 2, None, "cpu", [(8, 0)]),
        (1, 4, None, "cuda", [(1, 1)]),
    ],
)
def test_a_node_is_divided_among_workers(cpus, gpus, asked, provider, places):
    found = predict._divide(Node("id", "10.0.0.1", cpus, gpus), asked, provider != "cpu")
    assert [(x.cpus, x.gpus) for x in found] == places


def test_a_fold_takes_a_gpu_or_a_node():
    def node(cpus, gpus=0):
        return Node("id", "10.0.0.1", cpus, gpus)

    assert fold_resources([node(8), node(8)]) == (8, 0)
    assert fold_resources([node(2), node(64), node(48)]) == (48, 0)
    assert fold_resources([node(64), node(32, 4), node(12, 1)]) == (8, 1)
    with pytest.raises(KerasBirdsError, match="nodes with processors"):
        fold_resources([])


# --- the worker -----------------------------------------------------------------------------------------------------


def scores_of(classifier, path):
    return classifier.scores(path).iloc[:, 2:].to_numpy()


def test_a_packed_model_scores_where_its_file_is_not(tmp_path, write_tone):
    path = write_constant_model(tmp_path / "model.onnx", [0.5, -0.5, -3.0, 2.0])
    clip = write_tone("clip.wav")
    classifier = load(path)
    packed = PackedModel.of(classifier, None)
    path.unlink()
    other = packed.load()
    assert (other.model_id, other.labels) == (classifier.model_id, classifier.labels)
    assert other.engines[0].path == path
    np.testing.assert_array_equal(scores_of(other, clip), scores_of(classifier, clip))


def test_a_packed_run_and_a_packed_keras_model_are_loaded_as_such(placeholder_run, write_tone):
    clip = write_tone("clip.wav")
    for engine in ("onnx", "keras"):
        classifier = load(placeholder_run, engine)
        other = PackedModel.of(classifier, None).load()
        assert len(other.engines) == 2
        assert type(other.engines[0]) is type(classifier.engines[0])
        assert other.model_id == classifier.model_id
        np.testing.assert_allclose(scores_of(other, clip), scores_of(classifier, clip), atol=1e-6)


def test_a_packed_model_of_others_keeps_labels_rate_window_and_output(tmp_path, write_tone):
    path = write_foreign_model(tmp_path / "foreign.onnx", activation="Sigmoid")
    engine = WaveformEngine(path, LabelSet(FOREIGN_LABELS), FOREIGN_RATE, FOREIGN_WINDOW_S, "probabilities")
    classifier = Classifier([engine])
    packed = PackedModel.of(classifier, "cpu")
    path.unlink()
    other = packed.load()
    assert other.model_id == "foreign"
    clip = write_tone("clip.wav", 3000.0, rate=FOREIGN_RATE)
    np.testing.assert_array_equal(scores_of(other, clip), scores_of(classifier, clip))


def test_another_version_on_a_node_is_refused(tmp_path):
    packed = PackedModel.of(load(write_constant_model(tmp_path / "model.onnx", [0.0] * 4)), None)
    object.__setattr__(packed, "version", "9.9")
    with pytest.raises(ConfigError, match=r"must have keras-birds 9\.9"):
        packed.load()


def test_a_worker_gives_names_as_they_were_given_and_failures_their_reason(tmp_path, write_tone, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tone("a.wav", seconds=4)
    worker = Worker(1)
    model = write_constant_model(tmp_path / "model.onnx", [0.0] * 4)
    assert worker.load(PackedModel.of(load(model), None)) == os.getpid()
    group = Group(0, ("a.wav", "none.wav"))
    found = worker.score(group, group.places, ScoreOptions()).recordings
    assert [x.recording.file for x in found] == ["a.wav", "none.wav"]
    assert [x.recording.status for x in found] == ["ok", "missing"]
    assert [len(x.scores) for x in found] == [2, 0]


# --- real clusters ---------------------------------------------------------------------------------------------------

COUNT = 120


@pytest.fixture(scope="module")
def two_nodes():
    """A cluster of two nodes with a processor each, and this process connected to it."""
    check_address("local")
    from ray.cluster_utils import Cluster

    settings = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 1 << 27}
    found = Cluster(initialize_head=True, head_node_args=settings)
    try:
        found.add_node(num_cpus=1, object_store_memory=1 << 27)
        with connect(found.address):
            yield found
    finally:
        found.shutdown()


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """A folder with recordings of all lengths, one of them no audio, and a model."""
    import soundfile

    folder = tmp_path_factory.mktemp("batch")
    write_constant_model(folder / "model.onnx", [0.5, -0.5, -3.0, 2.0])
    (folder / "disk").mkdir()
    for k in range(COUNT):
        t = np.arange((3 + k % 17) * 32_000) / 32_000
        sound = 0.5 * np.sin(2 * np.pi * TONES_HZ[k % 4] * t)
        soundfile.write(folder / "disk" / f"{k:03d}_20250601_{k % 24:02d}0000.flac", sound, 32_000)
    (folder / "disk" / "bad.flac").write_text("no audio")
    (folder / os.fsdecode(b"disk/caf\xe9.flac")).write_bytes(
        (folder / "disk" / "005_20250601_050000.flac").read_bytes()
    )
    return folder


def score_batch(batch, out, score, calls=()):
    """Scores a batch into a folder, and calls once as many recordings are done; the tables it leaves."""
    classifier = load(batch / "model.onnx")
    names = sorted(f"disk/{x.name}" for x in (batch / "disk").iterdir())
    calls, failed, scored_s = dict(calls), [], []
    rules = DetectionRules.of(classifier.labels, smooth_windows=3)
    with Results(out, classifier.labels, classifier.model_id, rules, {}, keep_scores=True) as results:
        todo = results.to_do(names)
        for done, scored in enumerate(score(classifier, todo, ScoreOptions(overlap_s=1), scored_s.append), 1):
            if results.add(scored).failed:
                failed.append(scored.recording.file)
            if call := calls.pop(done, None):
                call()
        results.finish()
        tables = {
            x: pa.concat_tables([t for _, t in results.read(x)]).to_pandas() for x in ("summary", "scores")
        }
        rows = [x.to_table() for _, x in results.detections()]
        tables["detections"] = pa.concat_tables(rows).to_pandas()
    assert not [x for x in out.rglob("*") if x.name.startswith(".")]
    tables["manifest"] = pd.read_csv(out / "manifest.csv", encoding="latin-1")
    return tables, failed, sum(scored_s)


def assert_same(tables, wanted):
    for name, table in wanted.items():
        pd.testing.assert_frame_equal(tables[name], table, atol=1e-5)


@pytest.fixture(scope="module")
def plain(batch, tmp_path_factory):
    """What one machine makes of the batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(batch)
        return score_batch(batch, tmp_path_factory.mktemp("plain"), score_recordings)


@pytest.fixture
def small_groups(monkeypatch):
    """So that a batch of seconds has a middle."""
    monkeypatch.setattr(groups, "GROUP_S", 0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("small_groups", "two_nodes")
def test_workers_that_are_killed_lose_and_double_nothing(batch, plain, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(batch)
    said, killed = [], []
    with ClusterScorer(load("model.onnx"), say=said.append) as scorer:

        def kill():
            killed.append(scorer.pids[-1])
            os.kill(killed[-1], signal.SIGKILL)

        calls = {20: kill, 50: kill, 80: kill}
        tables, failed, scored_s = score_batch(batch, tmp_path / "out", scorer, calls)
    assert len(set(killed)) == 3
    assert_same(tables, plain[0])
    assert failed == plain[1] == ["disk/bad.flac"]
    assert scored_s == pytest.approx(plain[2])
    assert len(said) == 3
    assert all(re.match(r"A worker on node \S+ died \(killed or crashed\)", x) for x in said)
    assert capfd.readouterr() == ("", "")


def wait_for_workers(scorer, count):
    while len(scorer.pids) != count:
        scorer._look()
        scorer._wait(Groups(()))


@pytest.mark.slow
@pytest.mark.usefixtures("small_groups")
def test_a_node_that_goes_loses_nothing_and_one_that_comes_gets_a_worker(
    batch, plain, tmp_path, monkeypatch, two_nodes
):
    monkeypatch.chdir(batch)
    monkeypatch.setattr(predict, "_LOOK_EVERY_S", 0.2)
    said, settings = [], {"num_cpus": 1, "object_store_memory": 1 << 27}
    node = two_nodes.add_node(**settings)
    with ClusterScorer(load("model.onnx"), say=said.append) as scorer:
        wait_for_workers(scorer, 3)
        calls = {20: lambda: two_nodes.remove_node(node, allow_graceful=False)}
        tables, _, _ = score_batch(batch, tmp_path / "out", scorer, calls)
        assert_same(tables, plain[0])
        assert said
        assert all(" died (" in x or "No worker can be started" in x for x in said)
        wait_for_workers(scorer, 2)
        node = two_nodes.add_node(**settings)
        wait_for_workers(scorer, 3)
    two_nodes.remove_node(node, allow_graceful=False)


@pytest.mark.slow
@pytest.mark.usefixtures("two_nodes")
def test_a_recording_that_kills_its_workers_is_told_as_corrupt_and_the_others_are_scored(
    batch, plain, tmp_path, monkeypatch
):
    class DeadlyWorker(Worker):
        def score(self, group, places, options):
            if any("/037_" in x for x in places):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().score(group, places, options)

    monkeypatch.chdir(batch)
    monkeypatch.setattr(predict, "Worker", DeadlyWorker)
    said = []
    with ClusterScorer(load("model.onnx"), say=said.append) as scorer:
        tables, failed, _ = score_batch(batch, tmp_path / "out", scorer)
    bad = next(x for x in plain[0]["manifest"]["file"] if "/037_" in x)
    assert failed == [bad, "disk/bad.flac"]
    row = tables["manifest"].set_index("file").loc[bad]
    assert (row["status"], row["reason"]) == ("corrupt", "3 worker processes died while they read it")
    assert len(said) == 3
    for name in ("detections", "summary", "scores"):
        table = plain[0][name]
        expected = table[table["file"].astype(str) != bad].reset_index(drop=True)
        for x in (expected, tables[name]):
            x["file"] = x["file"].astype(str)
        pd.testing.assert_frame_equal(tables[name], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("two_nodes")
def test_errors_of_workers_and_of_options_are_one_line(batch, tmp_path, monkeypatch):
    monkeypatch.chdir(batch)
    model = load("model.onnx")
    bad = write_constant_model(tmp_path / "nan.onnx", [float("nan")] * 4)
    with (
        ClusterScorer(load(bad)) as scorer,
        pytest.raises(ModelError, match=r"nan\.onnx: the model must give"),
    ):
        list(scorer(model, ["disk/005_20250601_050000.flac"], ScoreOptions(), lambda _: None))
    with ClusterScorer(model) as scorer, pytest.raises(ConfigError, match="overlap"):
        list(scorer(model, ["disk/005_20250601_050000.flac"], ScoreOptions(overlap_s=99), lambda _: None))


@pytest.mark.slow
@pytest.mark.usefixtures("two_nodes")
def test_a_cluster_whose_processors_are_taken_is_given_up(batch, monkeypatch):
    model, said = load(batch / "model.onnx"), []
    with ClusterScorer(model) as other:
        wait_for_workers(other, 2)
        monkeypatch.setattr(predict, "_TELL_AFTER_S", 0.5)
        monkeypatch.setattr(predict, "_GIVE_UP_S", 2.0)
        with pytest.raises(KerasBirdsError, match=r"free\. Received: none of \d for 2 s"):
            ClusterScorer(model, say=said.append).__enter__()
    assert "Waiting for the cluster's processors" in said[0]


def command(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "keras_birds", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


@pytest.mark.slow
def test_ray_local_on_the_command_line_is_quiet_and_gives_the_same_files(batch, tmp_path):
    printed = []
    for more in ((), ("--ray", "local")):
        out = tmp_path / f"out{len(more)}"
        process = command("detect", "disk", "--model", "model.onnx", "--out", out, *more, cwd=batch)
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 1, stderr
        printed.append((stdout.replace(str(out), ""), stderr.splitlines()))
    assert printed[0][0] == printed[1][0]
    assert [len(x) for _, x in printed] == [2, 2], printed
    for name in ("detections.csv", "manifest.csv", "summary.csv", "activity.csv"):
        assert (tmp_path / "out0" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_scored_and_the_same_command_goes_on(batch, tmp_path):
    arguments = ("detect", "disk", "--model", "model.onnx", "--out", tmp_path / "out", "--ray", "local")
    code = "import keras_birds.distributed.groups as g; g.GROUP_S = 0.05; from keras_birds.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=batch,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not any("ray::Worker.score" in x for x in command_lines()):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "Stopped."
    again = command(*arguments, cwd=batch)
    _, stderr = again.communicate(timeout=120)
    assert again.returncode == 1, stderr
    manifest = pd.read_csv(tmp_path / "out" / "manifest.csv", encoding="latin-1")
    assert len(manifest) == COUNT + 2
    assert not manifest["file"].duplicated().any()


def command_lines():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fold_s_task_that_is_killed_goes_on_and_ends_as_without_ray(tmp_path, two_nodes):
    import small_run as small
    import torch

    from keras_birds.training.oof import OutOfFold
    from keras_birds.training.train import train

    data, config = small.make_data(tmp_path / "birds"), small.make_config(epochs=6)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as on a node with one processor: sums are of another order with two
    try:
        here = train(config, data, "all", tmp_path / "here")
    finally:
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
        scores = [OutOfFold.read(x.folder / "oof.parquet").scores for x in (a, b)]
        np.testing.assert_allclose(*scores, atol=1e-5)


@pytest.mark.slow
def test_a_run_that_nodes_do_not_see_is_told(tmp_path, two_nodes, monkeypatch):
    import small_run as small

    from keras_birds.distributed import train as module

    data = small.make_data(tmp_path / "birds")
    monkeypatch.setattr(module.Path, "cwd", lambda: Path("/nowhere"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"storage that every node sees under the same name\. Received: /nowhere/birds"
    ):
        train_on_cluster(two_nodes.address, small.make_config(), data.name, 0, tmp_path / "run")
