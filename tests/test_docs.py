"""Every Python block of README and docs/embeddings.md runs, on small files; test_edge_docs.py runs docs/edge.md."""

import re
from pathlib import Path

import numpy as np
import pytest
from small_run import write_csv

import keras_birds

ROOT = Path(keras_birds.__file__).parents[1]


def python_blocks(document):
    return re.findall(r"^```python.*?\n(.*?)^```", document.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch, write_tone):
    """What the README's programs find in their folder: a data set, a clip and a long recording."""
    rows = [[f"{label}/{i}.ogg", label] for label in ("wren", "bat") for i in range(25)]
    for name, label in rows:
        write_tone(f"birdclef/train_audio/{name}", {"wren": 2000.0, "bat": 5000.0}[label], seconds=1)
    write_csv(tmp_path / "birdclef" / "train.csv", ["filename", "primary_label"], rows)
    write_tone("clip.ogg", seconds=6)
    write_tone("day.flac", seconds=20)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("shallow_network", "folder")
def test_readme():
    blocks, names = python_blocks(ROOT / "README.md"), {"__name__": "readme"}
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert list(names["windows"].columns) == ["start_s", "end_s", "bat", "wren"]
    assert list(names["windows"]["start_s"]) == [0.0, 2.5]
    assert names["end_s"].max() == pytest.approx(20.0)
    assert (names["scores"].shape[1], names["probabilities"].shape) == (2, (8, 2))
    assert len(names["run"].folds[0].history["loss"]) == 2
    images, targets = np.random.default_rng(0).random((2, 256, 256, 1), np.float32), np.eye(2, 206)
    assert set(names["model"].evaluate(images, targets, verbose=0, return_dict=True)) == {"loss", "macro_auc"}


@pytest.mark.usefixtures("folder")
def test_embeddings(run_command, write_tone, tmp_path):
    write_tone("call.wav", seconds=8)
    run_command(
        "embed", tmp_path / "call.wav", tmp_path / "day.flac", "--model", "animals", "--out", "season1.emb"
    )
    (block,), names = python_blocks(ROOT / "docs" / "embeddings.md"), {"__name__": "embeddings"}
    exec(compile(block, "embeddings.md", "exec"), names)
    assert len(names["hits"]) == len(names["store"]) == 6


def test_no_other_document_has_python_that_nothing_runs():
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    assert sorted(x.name for x in documents if python_blocks(x)) == ["README.md", "edge.md", "embeddings.md"]
