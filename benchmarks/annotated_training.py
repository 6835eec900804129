"""Training on annotations of long recordings beside training on cut clips of the same events: a head on BirdNET.

    python benchmarks/annotated_training.py [DATA] [--seeds 3]

Needs `keras-birds models add birdnet`. DATA holds `animals` (440 real clips of 11 labels, with folds by source) and
`background` (320 real clips without any). Recordings of 40 s are made of background, with four real sounds each at
drawn places, 3 to 15 dB above what is there; where each begins and ends is known. Those of fold 0 are the test. The
head learns from the other recordings and a table of annotations, or from clips of them: each event with 3 s around its
middle, in a folder a label, and clips from between the events as background. Both are judged on the same recordings,
as `keras-birds evaluate --annotations` does.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from contention import processor

from keras_birds.audio.decode import decode
from keras_birds.config import AudioConfig, Config
from keras_birds.data.annotations import read_annotations
from keras_birds.evaluation.evaluate_annotated import evaluate_scores
from keras_birds.evaluation.events import EventRules
from keras_birds.inference.classifier import load
from keras_birds.training.train import train

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
RATE_HZ, SECONDS, EVENTS, CLIP_S = 32_000, 40, 4, 3.0
AUDIO = AudioConfig(sample_rate_hz=RATE_HZ)


def heard(samples: np.ndarray) -> np.ndarray:
    """A clip without the silence before and after, at most 5 s."""
    level = np.convolve(np.abs(samples), np.ones(640) / 640, "same")
    loud = np.flatnonzero(level > 0.05 * level.max())
    return samples[max(0, loud[0] - 320) : loud[-1] + 320][: 5 * RATE_HZ]


def make_recordings(
    folder: Path, clips: pd.DataFrame, backgrounds: list[Path], rng: np.random.Generator
) -> None:
    """Writes recordings with a clip a quarter, and `annotations.csv`."""
    folder.mkdir(parents=True)
    order, rows, slot_s = rng.permutation(len(clips)), [], SECONDS / EVENTS
    for number, first in enumerate(range(0, len(order), EVENTS)):
        chosen = rng.choice(len(backgrounds), SECONDS // 4, replace=False)  # some are shorter than 5 s
        sound = np.concatenate([decode(backgrounds[i], AUDIO).samples for i in chosen])[: SECONDS * RATE_HZ]
        sound *= 0.02 / max(float(np.sqrt(np.mean(sound**2))), 1e-4)
        for k, row in enumerate(order[first : first + EVENTS]):
            event = heard(decode(clips["path"].iloc[row], AUDIO).samples)
            begin_s = k * slot_s + rng.uniform(0, slot_s - len(event) / RATE_HZ)
            there = slice(round(begin_s * RATE_HZ), round(begin_s * RATE_HZ) + len(event))
            level, own = (float(np.sqrt(np.mean(x**2))) for x in (sound[there], event))
            sound[there] += event * (level + 1e-4) / max(own, 1e-5) * 10 ** (rng.uniform(3, 15) / 20)
            end_s = begin_s + len(event) / RATE_HZ
            rows.append((f"{number}.wav", f"{begin_s:.3f}", f"{end_s:.3f}", clips["primary_label"].iloc[row]))
        soundfile.write(folder / f"{number}.wav", sound / max(1, 1.05 * np.abs(sound).max()), RATE_HZ)
    with (folder / "annotations.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "start_s", "end_s", "label"), *rows])


def cut_clips(recordings: Path, folder: Path) -> None:
    """Writes a clip of each event in a folder a label below `events`, and one from beside it below `between`."""
    table = pd.read_csv(recordings / "annotations.csv")
    for file, rows in table.groupby("file"):
        sound = decode(recordings / str(file), AUDIO).samples
        ends_s = [0.0, *rows["end_s"]]
        for k, row in enumerate(rows.itertuples()):
            half_s = max(CLIP_S, row.end_s - row.start_s) / 2
            middle_s = (row.start_s + row.end_s) / 2
            parts = {f"events/{row.label}": (middle_s - half_s, middle_s + half_s)}
            if row.start_s - ends_s[k] >= 1:
                parts["between"] = (max(ends_s[k], row.start_s - CLIP_S), row.start_s)
            for name, (begin_s, end_s) in parts.items():
                (folder / name).mkdir(parents=True, exist_ok=True)
                part = sound[round(max(0, begin_s) * RATE_HZ) : round(end_s * RATE_HZ)]
                soundfile.write(folder / name / f"{Path(str(file)).stem}-{k}.wav", part, RATE_HZ)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=SHARED)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    print(processor(), flush=True)
    clips = pd.read_csv(args.data / "animals" / "train.csv", dtype=str)
    clips["path"] = [str(args.data / "animals" / "train_audio" / x) for x in clips["filename"]]
    backgrounds, rng = sorted((args.data / "background").rglob("*.ogg")), np.random.default_rng(42)
    half = rng.permutation(len(backgrounds))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, is_test in (("train", False), ("test", True)):
            part = half[len(half) // 2 :] if is_test else half[: len(half) // 2]
            chosen = [backgrounds[i] for i in part]
            make_recordings(folder / name, clips[(clips["fold"] == "0") == is_test], chosen, rng)
        cut_clips(folder / "train", folder / "clips")
        ways = {
            "cut clips": (folder / "clips" / "events", [f"data.background={folder / 'clips' / 'between'}",
                                                        "data.background_fraction=0.5"]),
            "annotations": (folder / "train", ["data.annotations=annotations.csv"]),
            "annotations, windows overlap by 1.5 s": (
                folder / "train", ["data.annotations=annotations.csv", "data.window_overlap_s=1.5"]),
        }  # fmt: skip
        test = folder / "test"
        found = read_annotations(test / "annotations.csv", sorted(map(str, test.glob("*.wav"))))
        print("trained on, window AUC and AP, event AP, mean of seeds and its spread", flush=True)
        for name, (data, changes) in ways.items():
            figures = []
            for seed in range(args.seeds):
                settings = [*changes, f"training.seed={seed}", "folds.hidden_fraction=0"]
                out = folder / f"{name}-{seed}"
                train(Config.load("birdnet-head", settings), data, "full", out)
                judged = evaluate_scores(load(out / "full"), found, test, EventRules())
                figures.append((judged.macro_auc.value, judged.cmap, judged.events.average_precision))
            mean, spread = np.mean(figures, axis=0), np.std(figures, axis=0)
            told = "  ".join(f"{x:.4f} ±{y:.4f}" for x, y in zip(mean, spread, strict=True))
            print(f"{name:40}{told}", flush=True)


if __name__ == "__main__":
    main()
