"""`keras-birds embed`, what models give for it, and what becomes of a store that is stopped, gone on with, or wrong."""

import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from placeholder import MEL, make_metadata, make_onnx, write_constant_model
from test_embeddings import contents

import keras_birds
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.errors import DataError
from keras_birds.results.journal import JOURNAL

SIZE = 12


def write_embedding_model(path, seed=0):
    """Its embedding is a mixture of all pixels, its scores those of `write_constant_model`."""
    model = make_onnx(
        f"""(float[batch, {MEL.height}, {MEL.width}, 1] mel) => (float[batch, 4] logits, float[batch, {SIZE}] embedding)
        {{ flat = Flatten(mel) embedding = MatMul(flat, mix) logits = MatMul(embedding, head) }}""",
        mix=np.random.default_rng(seed).normal(0, 1, (MEL.height * MEL.width, SIZE)),
        head=np.eye(SIZE, 4),
    )
    onnx.helper.set_model_props(model, make_metadata().onnx_props())
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


@pytest.fixture
def model(tmp_path):
    return write_embedding_model(tmp_path / "run" / "fold0" / "model.onnx")


_SLOWED = """
import sys, time
import keras_birds.results.sink as sink, keras_birds.models.ensemble as ensemble
from keras_birds.cli.main import main
sink._SHARD_S = 0.0
embed_clips = ensemble.Ensemble.embed_clips
ensemble.Ensemble.embed_clips = lambda *x: time.sleep(0.2) or embed_clips(*x)
main()
"""


def test_a_kill_loses_nothing_and_the_vectors_are_those_of_the_classifier(tmp_path, model, disk, run_command):
    out, whole = tmp_path / "s.emb", tmp_path / "whole.emb"
    arguments = ["embed", disk, "--model", model, "--overlap", "0.5", "--channel", "all", "--out"]
    process = subprocess.Popen([sys.executable, "-c", _SLOWED, *map(str, arguments), str(out)], stderr=-3)
    journal, ends_at = out / JOURNAL, time.monotonic() + 60
    while time.monotonic() < ends_at and not (journal.is_file() and journal.read_bytes().count(b"\n") > 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = len(EmbeddingStore(out))
    code, printed, err = run_command(*arguments, out)
    assert (code, printed.splitlines()) == (1, [str(out / "manifest.csv"), str(out)])
    assert "Failed: " in err
    assert "7 recordings: " in err
    assert "embedded before, 1 failed; " in err
    assert run_command(*arguments, whole)[0] == 1
    store, undisturbed = map(EmbeddingStore, (out, whole))
    assert 0 < before < len(store)
    assert contents(store) == contents(undisturbed)
    assert not [x for x in out.rglob("*") if x.name.startswith(".")]
    # What is out of reach stays, and is not mixed with another model's, also of the same name.
    disk.rename(tmp_path / "unplugged")
    code, _, err = run_command(*arguments, out)
    assert (code, "0 embedded" in err) == (1, True), err
    (tmp_path / "unplugged").rename(disk)
    original = model.read_bytes()
    write_embedding_model(model, seed=1)
    code, _, err = run_command(*arguments, out)
    assert (code, "holds embeddings of other settings" in err, "model_sha256 is" in err) == (2, True, True)
    assert contents(EmbeddingStore(out)) == contents(undisturbed)
    model.write_bytes(original)
    # Of one file and its mean over channels, as `Classifier` reads.
    alone = tmp_path / "alone.emb"
    assert run_command("embed", disk / "5.flac", "--model", model, "--out", alone)[0] == 0
    classifier, store = keras_birds.load(model), EmbeddingStore(alone)
    found = store.vectors(np.arange(len(store)))
    np.testing.assert_allclose(found, classifier.embeddings(disk / "5.flac"), rtol=1e-3)
    spans = store.windows()[["start_s", "end_s"]]
    np.testing.assert_array_equal(spans, classifier.scores(disk / "5.flac")[["start_s", "end_s"]])
    assert keras_birds.load(store.model).model_id == store.model_id


def test_models_that_give_no_embeddings_or_several_are_refused_and_no_folder_is_left(
    tmp_path, model, disk, run_command
):
    out, fold = tmp_path / "s.emb", model.parent
    constant = write_constant_model(tmp_path / "constant.onnx", [0.0] * 4)
    write_embedding_model(fold.with_name("fold1") / "model.onnx", seed=1)
    for options, code, said in (
        (("--model", constant), 1, "must give embeddings. Received: one that gives scores only. Choose"),
        (("--model", fold.parent), 1, f"2 folds, each with its own. Choose one fold, --model {fold}"),
        (("--model", model, "--overlap", 2), 2, "overlap must be"),
        (("--model", model, "--calibrated"), 2, "No such option"),
    ):
        found, printed, err = run_command("embed", disk, *options, "--out", out)
        assert (found, printed, said in err, out.exists()) == (code, "", True, False), err


def test_embeddings_of_arrays_are_those_of_files_and_info_tells_what_a_store_holds(
    tmp_path, model, write_tone, run_command
):
    import soundfile

    path, classifier = write_tone("five.wav", 1200.0, 5.0, 16_000), keras_birds.load(model)
    samples, rate_hz = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(classifier.embeddings(samples, rate_hz), classifier.embeddings(path))
    assert classifier.embeddings(samples[None, :20_000], rate_hz).shape == (1, SIZE)
    with pytest.raises(DataError, match="sample_rate_hz"):
        classifier.embeddings(samples)
    # Folds that are one network up to their heads have one embedding.
    shutil.copytree(model.parent, model.parent.with_name("fold1"))
    np.testing.assert_array_equal(
        keras_birds.load(model.parents[1]).embeddings(path), classifier.embeddings(path)
    )
    assert run_command("embed", path, "--model", model.parents[1], "--out", tmp_path / "s.emb")[0] == 0
    code, printed, _ = run_command("info", tmp_path / "s.emb")
    assert code == 0
    about = dict(x.split(maxsplit=1) for x in printed.splitlines())
    wanted = {"windows": "3", "size": "12", "recordings": "1", "failed": "0", "model": str(model)}
    assert wanted.items() <= about.items()
