"""How a run directory is laid out: what training leaves behind, and what `--resume`, prediction and reports find.

RUN/config.toml        every setting
RUN/environment.json   versions, backend, device, seed, git revision, data hash
RUN/split.csv          fold, recordist and place of every recording
RUN/manifest.csv       what became of every recording
RUN/background.csv     what became of the recordings of `data.background`
RUN/unlabelled.csv     what became of the recordings of `data.unlabelled`
RUN/pseudo.json        the labels of `data.pseudo` that it learns from: their folder, models and checksums
RUN/foldN/             model.keras, model.onnx, model.json, history.csv, oof.parquet; with a teacher soft_labels.parquet
RUN/full/              the same of a model of all recordings, without oof.parquet

`keras-birds pretrain` leaves config.toml, environment.json and manifest.csv too, and besides:
PRE/backbone.keras     what it learnt
PRE/pretraining.json   of what, and how; written last
PRE/history.csv        loss and probe by epoch
PRE/labelled/          split.csv and manifest.csv of the data set with labels
"""

import re
from pathlib import Path

RUNS_DIR = Path("runs")
"""Where training puts runs and prediction looks for them, below the current folder."""

CONFIG, ENVIRONMENT, SPLIT = "config.toml", "environment.json", "split.csv"
MANIFEST, BACKGROUND, UNLABELLED, PSEUDO = "manifest.csv", "background.csv", "unlabelled.csv", "pseudo.json"
ONNX, KERAS, METADATA, HISTORY, OOF = "model.onnx", "model.keras", "model.json", "history.csv", "oof.parquet"
SOFT_LABELS = "soft_labels.parquet"
BACKBONE_KERAS, PRETRAINING, LABELLED = "backbone.keras", "pretraining.json", "labelled"

Fold = int | str
FULL = "full"
"""In place of a fold's number: training on every recording that isn't hidden, measured on none."""


def fold_folder(run: Path, fold: Fold) -> Path:
    """Where a fold's files are."""
    return run / (FULL if fold == FULL else f"fold{fold}")


def fold_of(folder: Path) -> Fold | None:
    """The inverse of `fold_folder`; None of another folder."""
    if folder.name == FULL:
        return FULL
    number = re.fullmatch(r"fold(\d+)", folder.name)
    return int(number[1]) if number else None


def numbered_folds(run: Path) -> list[Path]:
    """The folders of a run's folds, in their order, finished or not; without that of `FULL`."""
    found = {fold_of(x): x for x in run.iterdir() if x.is_dir()}
    return [found[k] for k in sorted(k for k in found if isinstance(k, int))]
