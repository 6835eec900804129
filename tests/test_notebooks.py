"""The notebooks run to their end in the world of the documentation, and leave what they promise."""

import json
from pathlib import Path

import docs_world
import matplotlib.image
import nbformat
import numpy as np
import pandas as pd
import pytest
import test_docs_pages
from nbclient import NotebookClient

import keras_birds

NOTEBOOKS = sorted((Path(keras_birds.__file__).parents[1] / "notebooks").glob("*.ipynb"))


def check_season(folder, notebook):
    manifest = pd.read_csv(folder / "season/manifest.csv")
    assert (manifest["status"] == "ok").all()
    assert set(manifest["site"]) == {"S1", "S2"}
    assert len(pd.read_csv(folder / "season/detections.csv")) >= 3
    pictures = sum("image/png" in out.get("data", {}) for x in notebook.cells for out in x.get("outputs", ()))
    assert pictures == len(list(folder.glob("*.png"))) == 3
    for name in ("by-hour.png", "season.png"):
        drawn = matplotlib.image.imread(folder / name)[..., :3]
        left_of_scale = drawn[:, : int(0.8 * drawn.shape[1])]  # grey and black alone, if nothing was drawn
        assert np.ptp(left_of_scale, axis=2).max() > 0.3


made_world = test_docs_pages.made_world
CHECKS = {"season": check_season}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda x: x.stem)
def test_notebook_runs(path, made_world, tmp_path, monkeypatch):
    docs_world.enter_world(made_world, tmp_path / "world", monkeypatch)
    monkeypatch.delenv("MPLBACKEND", raising=False)  # other tests' libraries set it; a kernel chooses its own
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(tmp_path / "world")}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    for cell in notebook.cells:
        for line in "".join(x.get("text", "") for x in cell.get("outputs", ())).splitlines():
            assert not line.startswith(("Error:", "Usage:")), line
    if path.stem in CHECKS:
        CHECKS[path.stem](tmp_path / "world", notebook)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda x: x.stem)
def test_notebook_is_kept_without_outputs(path):
    cells = [x for x in json.loads(path.read_text("utf-8"))["cells"] if x["cell_type"] == "code"]
    assert not any(x["outputs"] or x["execution_count"] for x in cells)
