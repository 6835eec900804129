"""The folder in which the documentation's commands and programs run: recordings, a data set, a finished run.

As a program it is `keras-birds` with the small network in place: what bash finds when a page's lines run.
"""

import os
import shutil
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import soundfile
from small_run import write_csv

from keras_birds.cli.main import cli, main
from keras_birds.config import Config

RATE_HZ = 32_000
CALLS = {"bkcdon": (2500.0, 4000.0), "compau": (900.0, 700.0)}
"""What the two labels of `birdclef` call: a rising and a falling whistle, from and to so many Hz."""
TAXA = {
    "bkcdon": ("Donacobius atricapilla", "Black-capped Donacobius", "Aves"),
    "compau": ("Nyctidromus albicollis", "Common Pauraque", "Aves"),
}
TIMES_S = (("bkcdon", 1.5), ("compau", 4.0), ("bkcdon", 6.0), ("compau", 9.0))
"""When they call in a recording, a second each."""
RECORDINGS = ("S1/20250504_050000.wav", "S1/20250504_060000.wav", "S2/20250504_050000.wav")
PLACES = (("S1", 37.01, -6.43), ("S2", 37.04, -6.4))
NETWORK_COMMANDS = {"demo", "evaluate", "export", "pretrain", "train"}


def whistle(label: str) -> np.ndarray:
    """A second of a label's call."""
    t = np.arange(RATE_HZ) / RATE_HZ
    begin_hz, end_hz = CALLS[label]
    return 0.4 * np.hanning(RATE_HZ) * np.sin(2 * np.pi * (begin_hz * t + (end_hz - begin_hz) * t**2 / 2))


def write_sound(path: Path, seconds: float, calls=(), seed: int = 0) -> None:
    """Noise with calls `(label, second)` in it."""
    sound = np.random.default_rng(seed).normal(0, 0.01, round(seconds * RATE_HZ))
    for label, start_s in calls:
        sound[round(start_s * RATE_HZ) :][:RATE_HZ] += whistle(label)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, RATE_HZ)


def write_recordings(folder: Path) -> None:
    """All but the data sets: clips, recordings with their tables, sites, background and soundscapes."""
    write_sound(folder / "clip.ogg", 6, TIMES_S[:2])
    write_sound(folder / "call.wav", 3, (("bkcdon", 1.0),))
    write_sound(folder / "day.flac", 20, TIMES_S)
    for seed, name in enumerate(RECORDINGS):
        write_sound(folder / "recordings" / name, 12, TIMES_S, seed)
        table = folder / "tables" / f"{Path(name).parent}_{Path(name).stem}.Table.1.selections.txt"
        table.parent.mkdir(exist_ok=True)
        header = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tBegin Path"
        rows = [
            f"{i}\tSpectrogram 1\t1\t{start_s}\t{start_s + 1}\t{min(CALLS[x])}\t{max(CALLS[x])}\t{name}\t{x}"
            for i, (x, start_s) in enumerate(TIMES_S, 1)
        ]
        table.write_text("\n".join([f"{header}\tSpecies", *rows, ""]))
        for kind, calls in {"background": (), "soundscapes": TIMES_S}.items():
            if seed < 2:
                write_sound(folder / kind / f"H{seed}_20250505_05{seed}000.ogg", 12, calls, 10 + seed)
    write_csv(
        folder / "sites.csv", ["pattern", "site", "latitude", "longitude"], [(x[0], *x) for x in PLACES]
    )
    header = ["deployment", "site", "latitude", "longitude", "start", "end", "pattern"]
    rows = [(f"{x[0]}-spring", *x, "2025-05-01", "2025-06-14", x[0]) for x in PLACES]
    write_csv(folder / "deployments.csv", header, rows)


def write_data_sets(folder: Path) -> None:
    """`birdclef`, as it is downloaded, and `calls`, a folder for each label."""
    rows = []
    for k, label in enumerate(CALLS):
        for i in range(25):
            name, place = f"{label}/XC{1000 * k + i}.ogg", (round(4 + i / 9, 2), round(-74 - i / 9, 2))
            write_sound(folder / "birdclef" / "train_audio" / name, 1, ((label, 0.0),), 100 * k + i)
            rows.append((label, "[]", name, "XC", 3 + i % 3, *place, *TAXA[label][:2], f"author {i}"))
            if i < 10:
                write_sound(folder / "calls" / label / f"{i}.wav", 1, ((label, 0.0),), 200 + 100 * k + i)
    header = "primary_label secondary_labels filename collection rating latitude longitude"
    header += " scientific_name common_name author"
    write_csv(folder / "birdclef" / "train.csv", header.split(), rows)
    header = ["primary_label", "scientific_name", "common_name", "class_name"]
    write_csv(folder / "birdclef" / "taxonomy.csv", header, [(x, *y) for x, y in TAXA.items()])
    names = [f"H02_20230420_07{i}000" for i in range(2)]
    for i, name in enumerate(names):
        write_sound(folder / "birdclef" / "train_soundscapes" / f"{name}.ogg", 15, TIMES_S, 300 + i)
    rows = [(f"{x}_{end_s}", 0.5, 0.5) for x in names for end_s in (5, 10, 15)]
    write_csv(folder / "birdclef" / "sample_submission.csv", ["row_id", *CALLS], rows)


def use_small_network(patch: pytest.MonkeyPatch) -> None:
    """Three thin blocks in place of B0's sixteen, from scratch and for two epochs, whatever the settings say."""
    from keras_birds.nn import efficientnet

    stages = [efficientnet.Stage(1, 3, 8, 1, 2), efficientnet.Stage(2, 3, 16, 1, 2)]
    patch.setattr(efficientnet, "STAGES", (*stages, efficientnet.Stage(2, 5, 16, 1, 2)))
    load = Config.load

    def load_small(name="baseline", overrides=()):
        config = load(name, overrides)
        settings = config.training
        epochs = min(settings.epochs, 2)
        most = {"epochs": epochs, "warmup_epochs": epochs / 2, "swa_epochs": epochs - 1}
        training = settings.model_copy(update={x: min(getattr(settings, x), y) for x, y in most.items()})
        scratch = {"pretrained": "none"} if config.model.pretrained == "imagenet" else {}
        model = config.model.model_copy(update=scratch)
        return config.model_copy(update={"training": training, "model": model})

    patch.setattr(Config, "load", staticmethod(load_small))


def make_world(folder: Path) -> None:
    """Writes all of it, the run and its results by the commands themselves."""
    write_recordings(folder)
    write_data_sets(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        use_small_network(patch)
        for line in (
            "train --data birdclef --fold all --out runs/all",
            "detect recordings --model runs/all --out results",
        ):
            cli.main(line.split(), standalone_mode=False)


def enter_world(made: Path, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Goes into a copy of the world, where nothing that was added to this machine or cached on it is seen."""
    shutil.copytree(made, folder)
    patch.chdir(folder)
    tools = folder.parent / "bin"
    tools.mkdir()
    for name, program in {"keras-birds": f' "{__file__}"', "python": ""}.items():
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{program} "$@"\n')
        (tools / name).chmod(0o755)
    patch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    patch.setenv("KERAS_BIRDS_MODELS", str(folder.parent / "models"))
    patch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
    patch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())
    use_small_network(patch)


if __name__ == "__main__":
    if NETWORK_COMMANDS & set(sys.argv[1:2]):
        use_small_network(pytest.MonkeyPatch())
    main()
