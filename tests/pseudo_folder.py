"""Writes folders as `keras-birds pseudo` does, without a model."""

from pathlib import Path

import numpy as np

from keras_birds.results.pseudo import LabelRules, LabelTables, Teacher
from keras_birds.run_layout import MANIFEST


def write_pseudo_labels(
    folder: Path, windows, labels, probabilities, teacher=None, rules=None, overlap_s: float = 0.0
) -> Path:
    """Windows `(path, start_s, end_s)` with probabilities `[window, model, label]`."""
    teacher, rules = teacher or Teacher(("placeholder",)), rules or LabelRules()
    paths, start_s, end_s = zip(*windows, strict=True)
    folder.mkdir(parents=True)
    rows = "".join(f'"{x}",ok\n' for x in dict.fromkeys(paths))
    (folder / MANIFEST).write_text("file,status\n" + rows)
    tables = LabelTables(folder, labels, teacher, rules)
    tables.add([str(x) for x in paths], np.array(start_s), np.array(end_s), np.float32(probabilities))
    tables.finish(overlap_s)
    return folder
