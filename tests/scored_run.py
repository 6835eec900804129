"""Run directories with given out-of-fold scores: real files, and models that answer every clip alike."""

from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from placeholder import LABELS, make_metadata, write_constant_model

from keras_birds.config import Config
from keras_birds.models.metadata import ModelMetadata
from keras_birds.training.oof import OutOfFold

NUM_FOLDS, PER_FOLD = 3, 40


def make_scores(fold: int = 0, skill: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Targets and scores `[40, 4]`: one label a recording, some others masked, scores that know something."""
    rng = np.random.default_rng(fold)
    targets = np.eye(len(LABELS), dtype="float32")[np.arange(PER_FOLD) % len(LABELS)]
    logits = rng.normal(-2, 1, targets.shape) + skill * targets
    targets[(rng.random(targets.shape) < 0.05) & (targets == 0)] = -1
    return targets, (1 / (1 + np.exp(-logits))).astype("float32")


def write_scored_run(run: Path, skill: float = 1.5, num_folds: int = NUM_FOLDS, **settings) -> Path:
    """Writes a run of finished folds, with histories and a split in which one author is on both sides."""
    run.mkdir(parents=True)
    config = Config.parse({"folds": {"strategy": "column", "column": "fold"}, **settings})
    (run / "config.toml").write_text(config.to_toml())
    split, epochs = "path,label,fold,author\n", np.arange(1, 6)
    history = pd.DataFrame({"epoch": epochs, "loss": 1 / epochs, "val_loss": 1.2 / epochs})
    for fold in range(num_folds):
        folder, paths = run / f"fold{fold}", tuple(f"train_audio/{fold}/{i}.wav" for i in range(PER_FOLD))
        targets, scores = make_scores(fold, skill)
        metrics = {"macro_auc": 0.9, "kept_epoch": 2 + fold, "epochs": 5, "train_seconds": 1.0}
        metadata = make_metadata(f"{run.name}/fold{fold}", metrics=metrics)
        write_constant_model(folder / "model.onnx", [0.0] * len(LABELS), metadata)
        metadata.write_json(folder / "model.json")
        OutOfFold(paths, LABELS, scores, targets).write(folder / "oof.parquet")
        history.assign(val_macro_auc=1 - 0.5 / epochs).to_csv(folder / "history.csv", index=False)
        authors = ["ann", *(f"a{fold}-{i // 4}" for i in range(1, PER_FOLD))]
        split += "".join(f"{path},whtdov,{fold},{name}\n" for path, name in zip(paths, authors, strict=True))
    (run / "split.csv").write_text(split)
    return run


def use_placeholder(run: Path, placeholder_run: Path) -> None:
    """Gives a scored run's first two folds the models of the placeholder, which answer what they hear."""
    for fold in ("fold0", "fold1"):
        model = onnx.load(placeholder_run / fold / "model.onnx")
        onnx.helper.set_model_props(model, ModelMetadata.read_json(run / fold / "model.json").onnx_props())
        onnx.save(model, run / fold / "model.onnx")
