"""Prunes the folds of a run and trains them a little further, as a run of its own."""

from collections.abc import Sequence
from pathlib import Path

from keras_birds.config import Config
from keras_birds.errors import ConfigError
from keras_birds.progress import Reporter
from keras_birds.run_layout import CONFIG, FULL, fold_of
from keras_birds.training.run_directory import read_data_dir
from keras_birds.training.train import RunResult, train

EPOCHS, LEARNING_RATE = 0.3, 0.5
"""Of the run's own: so many epochs more, from so high a rate down."""


def train_pruned(models: Sequence[Path], ratio: float, reporter: Reporter) -> RunResult:
    """Trains `RUN-pruned-RATIO` beside a run: its folds without a share of their channels.

    Each fold learns from what it has learnt from before, so that its out-of-fold scores stay honest. Folds that are
    finished are found, an interrupted one goes on.

    Args:
        models: `RUN/foldK/model.onnx` of the folds, or `RUN/full/model.onnx`.
        ratio: of the channels inside each block to leave out, above 0 and below 1.
        reporter: gets lines and progress.

    Raises:
        ConfigError: if the folder isn't a run, or its data set is no longer where it was.
        KerasBirdsError: as `train`.
    """
    folds, run = [fold_of(x.parent) for x in models], models[0].parent.parent
    numbers = [x for x in folds if isinstance(x, int)]
    if not (run / CONFIG).is_file() or (numbers != folds and folds != [FULL]):
        raise ConfigError(f"--prune needs a run, whose recordings to train on. Received: {models[0]}")
    settings = Config.load(run / CONFIG)
    if settings.model.backbone == "birdnet":
        raise ConfigError(
            f"--prune needs a run of the network efficientnet_b0. Received: {run}, of birdnet. Leave --prune out"
        )
    if (data := read_data_dir(run)) is None:
        raise ConfigError(
            f"--prune needs the recordings that {run} was trained on. Received: they are no longer there"
        )
    out = run.with_name(f"{run.name}-pruned-{ratio:g}")
    config = settings.model_dump()
    training = config["training"]
    epochs, rate = max(1, round(EPOCHS * training["epochs"])), LEARNING_RATE * training["learning_rate"]
    training |= {"epochs": epochs, "learning_rate": rate, "warmup_epochs": 0.0}
    training["swa_epochs"] = min(training["swa_epochs"], epochs)
    config["model"] |= {"initial": str(run.resolve()), "prune": ratio, "pretrained": "none"}
    return train(Config.parse(config), data, numbers or FULL, out, (out / CONFIG).is_file(), reporter)
