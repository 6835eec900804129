"""A data set and settings that train in a second, and what watches a training."""

import csv

import numpy as np
import pytest
import soundfile

from keras_birds.config import Config
from keras_birds.progress import Reporter
from keras_birds.training.train import train

LABELS, TONES_HZ, RATE_HZ = ("wren", "1139490", "bat"), (500.0, 1200.0, 2600.0), 8000
"""The taxonomy's order isn't the alphabet's."""
PER_LABEL_AND_FOLD, NUM_VALIDATE = 12, (36, 34)
BROKEN = {"wren/20.wav": b"RIFF nothing", "bat/14.wav": b""}
"""Both of fold 1, which leaves it fewer recordings that can be read."""
EPOCHS, BATCH_SIZE = 4, 4
FOLD_FILES = {"model.keras", "model.onnx", "model.json", "history.csv", "oof.parquet"}
RUN_FILES = {"config.toml", "environment.json", "split.csv", "manifest.csv"}
MEL = {
    "n_fft": 256,
    "hop_samples": 128,
    "n_mels": 16,
    "n_mfcc": 8,
    "f_max_hz": 4000,
    "height": 32,
    "width": 32,
}
TRAINING = {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "learning_rate": 5e-3, "seed": 2}


def make_config(data=(), model=(), augment=(), **training):
    return Config.parse(
        {
            "audio": {"sample_rate_hz": RATE_HZ, "clip_s": 0.5},
            "mel": MEL,
            "data": {"secondary": "mask", **dict(data)},
            "folds": {"strategy": "column", "column": "fold"},
            "augment": dict(augment),
            "model": {"pretrained": "none", **dict(model)},
            "training": {**TRAINING, **training},
        }
    )


def write_tones(folder, labels, tones_hz, count):
    """A folder a label, with so many noisy tones of half a second, of frequencies within a tenth of the label's."""
    rng, t = np.random.default_rng(0), np.arange(RATE_HZ // 2) / RATE_HZ
    for label, tone_hz in zip(labels, tones_hz, strict=True):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            noise = rng.normal(0, 0.1, len(t))
            tone = 0.4 * np.sin(2 * np.pi * tone_hz * rng.uniform(0.9, 1.1) * t)
            soundfile.write(folder / label / f"{i}.wav", tone + noise, RATE_HZ)
    return folder


def make_data(folder):
    """Tones in BirdCLEF's layout with a column of folds; two can't be read, a third of them has a second label."""
    write_tones(folder / "train_audio", LABELS, TONES_HZ, 2 * PER_LABEL_AND_FOLD)
    for name, content in BROKEN.items():
        (folder / "train_audio" / name).write_bytes(content)
    rows = [
        [f"{label}/{i}.wav", label, [LABELS[(k + 1) % 3]] if i % 3 == 1 else [""], i // PER_LABEL_AND_FOLD]
        for k, label in enumerate(LABELS)
        for i in range(2 * PER_LABEL_AND_FOLD)
    ]
    write_csv(folder / "train.csv", ["filename", "primary_label", "secondary_labels", "fold"], rows)
    write_csv(folder / "taxonomy.csv", ["primary_label"], [[label] for label in LABELS])
    return folder


def write_csv(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def files_below(folder):
    return {x.relative_to(folder).as_posix() for x in folder.rglob("*") if x.is_file()}


class Watcher(Reporter):
    """Keeps the lines, and interrupts as Ctrl-C does as soon as `stop(lines, batches done)` holds."""

    def __init__(self, stop=lambda lines, done: False):
        self.lines, self.stop = [], stop

    def log(self, line):
        self.lines.append(line)
        self.progress("Epoch", 0, 1)

    def progress(self, task, done, total):
        if task == "Epoch" and total and self.stop(self.lines, done):
            raise KeyboardInterrupt


def interrupt(config, data, fold, out, stop=lambda lines, done: True, resume=False):
    """Trains until `stop` holds, at first before the first fold; the watcher."""
    watcher = Watcher(stop)
    with pytest.raises(KeyboardInterrupt):
        train(config, data, fold, out, resume=resume, reporter=watcher)
    return watcher
