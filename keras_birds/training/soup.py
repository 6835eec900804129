"""One model of a run's folds: the mean of their weights."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from keras_birds.config import Config
from keras_birds.errors import ConfigError
from keras_birds.models.keras_engine import load_keras_model
from keras_birds.models.metadata import ModelMetadata
from keras_birds.models.onnx_export import export_onnx
from keras_birds.progress import Reporter
from keras_birds.run_layout import CONFIG, FULL, KERAS, METADATA, ONNX, fold_of
from keras_birds.training.averaging import renew_statistics, statistics_images
from keras_birds.training.callbacks import seed_layers
from keras_birds.training.run import open_run
from keras_birds.training.run_directory import read_data_dir
from keras_birds.training.warm_start import is_pretraining


def make_soup(models: Sequence[Path], folder: Path, reporter: Reporter) -> Path:
    """Writes `model.keras`, `model.json` and `model.onnx` of a run's soup into an existing folder: the last one's path.

    It has heard what any of the folds has, so that none of their recordings measures it. Batch normalisation's
    statistics are those of the run's recordings, as training takes them. A line says so where the folds learnt from
    random weights.

    Args:
        models: `RUN/foldK/model.onnx` of at least two folds.
        folder: where it goes.
        reporter: gets lines.

    Raises:
        ConfigError: if the folder isn't a run of several folds, its network another, or its data set no longer there.
        KerasBirdsError: if a file can't be used.

    Source: Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy
    without increasing inference time", arXiv:2203.05482 (the uniform one).
    """
    run = models[0].parent.parent
    folds = [fold_of(x.parent) for x in models]
    if len(models) < 2 or not (run / CONFIG).is_file() or not all(isinstance(x, int) for x in folds):
        raise ConfigError(f"--soup needs a run of several folds. Received: {models[0]}")
    config = Config.load(run / CONFIG)
    if config.model.backbone != "efficientnet_b0" or config.model.prune:
        what = "whose folds are pruned, each by itself" if config.model.prune else config.model.backbone
        raise ConfigError(
            f"--soup needs a run of the network efficientnet_b0, not pruned. Received: {run}, {what}"
        )
    if (data := read_data_dir(run)) is None:
        raise ConfigError(
            f"--soup needs the recordings that {run} was trained on. Received: they are no longer there"
        )
    if not begin_alike(config):
        reporter.log(
            f"{run}: the folds learnt from random weights, from which each goes its own way: the mean of their weights "
            "may be noise. A soup is for folds that were fine-tuned from the same weights"
        )
    soup = mean_of([load_keras_model(x.with_name(KERAS)) for x in models])
    training = open_run(run, config, data, None).training_data(FULL)
    seed_layers(soup, config.training.seed, 0)
    renew_statistics(soup, statistics_images(training, reporter))
    first = ModelMetadata.read_onnx(models[0])
    metadata = replace(first, model_id=f"{run.resolve().name}/soup", metrics={}, calibration=None)
    metadata.write_json(folder / METADATA)
    soup.save(folder / KERAS)
    export_onnx(folder / KERAS, folder / ONNX, metadata)
    return folder / ONNX


def begin_alike(config: Config) -> bool:
    """Whether a run's folds began with the same backbone, as far as is known: those of another run with its own."""
    initial = config.model.initial
    if not initial or is_pretraining(initial):
        return bool(initial) or config.model.pretrained != "none"
    path = Path(initial, CONFIG)
    return not path.is_file() or begin_alike(Config.load(path))


def mean_of(models: Sequence[keras.Model]) -> keras.Model:
    """The first model, with the mean of all their weights; statistics of batch normalisation must be taken anew."""
    weights = [x.get_weights() for x in models]
    models[0].set_weights([np.mean(x, axis=0).astype(x[0].dtype) for x in zip(*weights, strict=True)])
    return models[0]
