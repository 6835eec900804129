"""A network that also learns from recordings without labels, which a teacher labels."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_run as small
from small_run import Watcher, interrupt, make_config

from keras_birds.config import AudioConfig, Config
from keras_birds.data.catalog import read_catalog
from keras_birds.data.soft_labels import SoftLabels
from keras_birds.data.unlabelled import find_unlabelled
from keras_birds.data.windows import Window, WindowSource
from keras_birds.errors import ConfigError, DataError
from keras_birds.labels import LabelSet
from keras_birds.models.metadata import ModelMetadata
from keras_birds.training.run import open_run, prepare_run
from keras_birds.training.teacher import by_clip, soft_labels
from keras_birds.training.train import train


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Labelled tones, and beside them `more`: five tones of each label, and a file that can't be read."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(small, "PER_LABEL_AND_FOLD", 6)
    monkeypatch.setattr(small, "BROKEN", {})
    more = small.write_tones(tmp_path / "more", small.LABELS, np.multiply(small.TONES_HZ, 1.02), 5)
    (more / "broken.wav").write_bytes(b"RIFF nothing")
    return small.make_data(tmp_path / "birds")


def taught(data, **training):
    off = {"probability": 0.0}
    more = {"unlabelled": str(data.parent / "more"), "pseudo_fraction": 0.4}
    return make_config(more, augment={**off, "mixup": off}, teacher="birdnet", **training)


def test_a_network_learns_from_labels_and_from_what_its_teacher_hears(
    birdnet_model, shallow_network, data, tmp_path
):
    config, watcher = taught(data, epochs=3), Watcher()
    whole = train(config, data, 0, tmp_path / "whole", reporter=watcher).folds[0]
    assert "36 recordings, 3 labels, 2 folds, 16 without labels" in watcher.lines[0]
    assert "fold 0: birdnet labelled 15 windows of 15 recordings" in watcher.lines
    assert (pd.read_csv(tmp_path / "whole" / "unlabelled.csv")["status"] == "ok").sum() == 15
    metadata = ModelMetadata.read_onnx(whole.folder / "model.onnx")
    assert (metadata.licence, metadata.source) == ("", "trained here, taught by birdnet")
    soft = SoftLabels.read(whole.folder / "soft_labels.parquet", metadata.labels)
    heard = [metadata.labels[k] for k in soft.targets.argmax(axis=1)]
    assert np.mean([x.path.parent.name == label for x, label in zip(soft.windows, heard, strict=True)]) > 0.8
    # An epoch is 18 recordings with labels and 12 windows that have the teacher's, with which the images go.
    batches = open_run(tmp_path / "whole", config, data, None).training_data(0, soft)
    images, targets = (
        np.concatenate(x) for x in zip(*(batches[k] for k in range(len(batches))), strict=True)
    )
    known = {x.tobytes(): k for k, x in enumerate(soft.targets)}
    found = [
        (k, image)
        for image, x in zip(images, targets, strict=True)
        if (k := known.get(x.tobytes())) is not None
    ]
    assert (len(targets), len(found)) == (28, pytest.approx(11, abs=1))
    source = WindowSource(soft.windows, config.audio, config.mel)
    np.testing.assert_array_equal([x for _, x in found], source.images(np.array([k for k, _ in found])))
    # A run that goes on has the labels that it had, and ends as the whole one.
    parted = tmp_path / "parted"
    interrupt(config, data, 0, parted, lambda lines, done: lines[-1].startswith("epoch 1/"))
    kept = (parted / "fold0" / "soft_labels.parquet").stat().st_mtime_ns
    resumed = train(config, data, 0, parted, resume=True).folds[0]
    assert (parted / "fold0" / "soft_labels.parquet").stat().st_mtime_ns == kept
    scores = [pd.read_parquet(x.folder / "oof.parquet") for x in (whole, resumed)]
    pd.testing.assert_frame_equal(*scores, rtol=0, atol=1e-4)


def test_a_teacher_knows_the_labels_that_its_fold_trains_on_and_no_others(birdnet_model, data, tmp_path):
    def labelled(folder):
        run = prepare_run(taught(folder), folder, 0, tmp_path / f"run of {folder.name}", False, Watcher())
        (run.out / "fold0").mkdir()
        return soft_labels(run, 0, Watcher()).targets

    expected, table = labelled(data), pd.read_csv(data / "train.csv", dtype=str)
    for fold, is_same in (("0", True), ("1", False)):
        folder, chosen = tmp_path / f"other{fold}", table["fold"] == fold
        shutil.copytree(data, folder)
        swapped = table["primary_label"].map(dict(zip(small.LABELS, small.LABELS[::-1], strict=True)))
        table.assign(
            primary_label=table["primary_label"].where(~chosen, swapped),
            secondary_labels=table["secondary_labels"].where(~chosen, "['']"),
        ).to_csv(folder / "train.csv", index=False)
        assert np.array_equal(labelled(folder), expected) == is_same


def test_recordings_of_the_data_set_are_refused_however_they_are_called(data):
    more, audio = data.parent / "more", data / "train_audio"
    (audio / "bat" / "3.wav").rename(audio / "bat" / "XC12345 - Bat.wav")
    table = (data / "train.csv").read_text()
    (data / "train.csv").write_text(table.replace("bat/3.wav", "bat/XC12345 - Bat.wav"))
    catalog, watcher = read_catalog(data, Config().data), Watcher()
    # Recorders use the same names everywhere.
    assert len(find_unlabelled(str(more), catalog, watcher)) == 16
    with pytest.raises(
        DataError, match=r"data\.unlabelled: recordings and folders must exist\. Received: 'nowhere'"
    ):
        find_unlabelled("nowhere", catalog, watcher)
    (data.parent / "list.csv").write_text(f"path\n{more}/bat/1.wav\n{audio}/bat/1.wav\n")
    with pytest.raises(DataError, match=r"Received: 1 of them, first \S+/bat/1.wav, which is \S+/bat/1.wav"):
        find_unlabelled(str(data.parent / "list.csv"), catalog, watcher)
    (more / "caf\udce9.wav").symlink_to(more / "bat" / "1.wav")
    with pytest.raises(DataError, match=r"name must be UTF-8\. Received: .*caf.*; rename it"):
        find_unlabelled(str(more), catalog, watcher)
    (more / "caf\udce9.wav").unlink()
    shutil.copy(audio / "wren" / "2.wav", more / "a.wav")
    (more / "b.wav").symlink_to(audio / "bat" / "2.wav")
    shutil.copy(more / "bat" / "1.wav", more / "xc12345.wav")
    for name, why in {
        "a": "holds the same as .*wren/2",
        "b": "is .*bat/2",
        "xc12345": "has the number of .*XC1",
    }.items():
        with pytest.raises(
            DataError, match=rf"no recording of the data set.* first \S+/more/{name}.wav, which {why}"
        ):
            find_unlabelled(str(more), catalog, watcher)
        (more / f"{name}.wav").unlink()


def test_windows_of_a_teacher_are_those_of_longer_or_shorter_clips():
    scores = np.eye(5)
    np.testing.assert_allclose(by_clip(scores[:2], 3.0, 5.0), [[0.6, 0.4, 0, 0, 0]])
    assert by_clip(scores[:1], 3.0, 5.0).tolist() == [[1, 0, 0, 0, 0]]
    np.testing.assert_allclose(
        by_clip(scores, 3, 5), np.array([[3, 2, 0, 0, 0], [0, 1, 3, 1, 0], [0, 0, 0, 2, 3]]) / 5
    )
    assert by_clip(scores[:2], 3.0, 1.5).argmax(axis=1).tolist() == [0, 0]


def test_what_cannot_be_learnt_from_is_told(data, tmp_path):
    for wrong in ({"data": {"unlabelled": "more"}}, {"teacher": "birdnet"}):
        with pytest.raises(
            ConfigError, match=r"data\.unlabelled, .* and training\.teacher, .* must be set together"
        ):
            make_config(**wrong)
    with pytest.raises(ConfigError, match=r"training\.teacher must be empty"):
        Config.load("birdnet", ["training.teacher=birdnet", "data.unlabelled=x"])
    stranger = make_config({"unlabelled": str(data.parent / "more")}, teacher="owl")
    with pytest.raises(ConfigError, match=r"training\.teacher must name a model .* Received: owl, which"):
        prepare_run(stranger, data, 0, tmp_path / "new", False, Watcher())
    assert not (tmp_path / "new").exists()
    tone, path = data / "train_audio" / "bat" / "0.wav", tmp_path / "soft.parquet"
    soft = SoftLabels((Window(tone, 1.0, 2.0),), LabelSet(["a", "b"]), np.zeros((1, 2), np.float32))
    with pytest.raises(DataError, match=r"0\.wav: a window must lie in its recording\. Received: 1 to 2 s"):
        WindowSource(soft.windows, AudioConfig(), None).images(np.array([0]))
    soft.write(path)
    assert SoftLabels.read(path, soft.labels).windows == soft.windows
    with pytest.raises(
        DataError, match=r"soft\.parquet: must have the data set's labels\. Received: without target/c"
    ):
        SoftLabels.read(path, LabelSet(["a", "c"]))


def test_of_each_label_the_surest_windows_are_kept_and_those_without_any():
    targets = np.array([[0.9, 0.2], [0.5, 0.4], [0.7, 0.8], [0.6, 0], [0, 0], [0.1, 0.3]], np.float32)
    windows = tuple(Window(Path("a.wav"), k, k + 1) for k in range(6))
    kept = SoftLabels(windows, LabelSet(["a", "b"]), targets).surest(2)
    assert [x.start_s for x in kept.windows] == [0, 2, 3, 4, 5]
    np.testing.assert_array_equal(kept.targets, targets[[0, 2, 3, 4, 5]])
