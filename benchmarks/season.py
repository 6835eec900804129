"""A season of recordings from `keras-birds detect` to Camtrap DP and detection histories, one command each.

    python benchmarks/season.py [DATA] [--sites 100] [--days 30] [--files 144] [--folder DIR]

So many files a day and site, of a second each, every ten minutes with 144: real sounds of DATA under the names that
recorders give, hard links to a few dozen files, so that a season takes up no room. A network of four blocks, untrained,
scores them: what is measured is all around the network. Its threshold is drawn so that there is about one detection in
each recording. Printed are, of each command, wall time, recordings a second, CPU time of each, and the most memory.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import soundfile
from contrastive_speed import processor

ANIMALS = Path(__file__).resolve().parents[2] / "shared" / "data" / "animals"
RATE_HZ, SOUNDS, BEGAN = 16_000, 48, datetime(2025, 5, 1)
NETWORK = """
import sys
from keras_birds.nn import efficientnet
efficientnet.STAGES = (*efficientnet.STAGES[:2], efficientnet.Stage(6, 5, 40, 1, 2))
import keras_birds
from keras_birds.labels import Label, LabelSet
from keras_birds.models.metadata import ModelMetadata
from keras_birds.models.onnx_export import export_onnx
small = ["model.pretrained=none", "audio.sample_rate_hz=16000", "audio.clip_s=1.0", "mel.f_max_hz=8000.0"]
small += ["mel.n_mels=32", "mel.n_mfcc=20", "mel.height=32", "mel.width=32"]
config = keras_birds.Config.load("baseline", small)
names = ["Parus major", "Turdus merula", "Strix aluco", "Luscinia megarhynchos", "Cuculus canorus", "Alauda arvensis"]
keras_birds.build_model(config, len(names)).save(sys.argv[1] + "/model.keras")
labels = LabelSet([Label(x, x) for x in names])
metadata = ModelMetadata("season", labels, config.audio, config.mel)
export_onnx(sys.argv[1] + "/model.keras", sys.argv[1] + "/model.onnx", metadata)
"""


def write_sounds(data: Path, folder: Path) -> list[Path]:
    """A second each of real clips."""
    folder.mkdir()
    paths = []
    for k, source in enumerate(sorted(data.rglob("*.ogg"))[:: max(1, 440 // SOUNDS)][:SOUNDS]):
        samples, rate_hz = soundfile.read(source, dtype="float32")
        paths.append(folder / f"{k}.wav")
        soundfile.write(paths[-1], samples[: rate_hz : rate_hz // RATE_HZ], RATE_HZ)
    return paths


def write_season(args: argparse.Namespace, folder: Path) -> int:
    """Recordings of all sites, and `deployments.csv`; how many."""
    sounds = write_sounds(args.data, folder / "sounds")
    rng, step = np.random.default_rng(0), timedelta(days=1) / args.files
    rows = ["deployment,site,latitude,longitude,start,end,pattern,timezone"]
    last = BEGAN + timedelta(days=args.days)
    for site in range(args.sites):
        name = f"S{site:03d}"
        place = f"{40 + site * 0.01:.2f},{-3 - site * 0.01:.2f}"
        rows.append(f"{name}-2025,{name},{place},{BEGAN.isoformat()},{last.isoformat()},{name},Europe/Madrid")
        season = folder / "recordings" / name
        season.mkdir(parents=True)
        for k in range(args.days * args.files):
            os.link(sounds[rng.integers(len(sounds))], season / f"{BEGAN + k * step:%Y%m%d_%H%M%S}.wav")
    (folder / "deployments.csv").write_text("\n".join(rows) + "\n")
    return args.sites * args.days * args.files


def threshold(folder: Path) -> float:
    """The score that as many windows' labels reach as there are sounds."""
    import keras_birds

    classifier = keras_birds.load(folder / "model.onnx")
    scores = [classifier.scores(x).iloc[:, 2:].to_numpy() for x in sorted((folder / "sounds").iterdir())]
    return float(np.sort(np.concatenate(scores), axis=None)[-SOUNDS])


def run(count: int, *words: object) -> None:
    """Runs a command of keras-birds and prints what it took."""
    command, began = [sys.executable, "-m", "keras_birds", *map(str, words)], time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - began
    if status:
        raise SystemExit(f"{' '.join(map(str, words))}: {said[-2000:]}")
    cpu_ms = (usage.ru_utime + usage.ru_stime) / count * 1000
    rate = f"{count / wall_s:8,.0f} recordings/s, {cpu_ms:6.2f} CPU ms each"
    print(f"{words[0]:<12} {wall_s:7.1f} s, {rate}, {usage.ru_maxrss / 1024:5.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ANIMALS)
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--files", type=int, default=144, help="A day and site. [default: 144]")
    parser.add_argument("--folder", type=Path, help="Where the season goes. [default: a temporary folder]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-c", NETWORK, name], check=True, stderr=subprocess.DEVNULL)
        count = write_season(args, folder)
        print(
            f"{count:,} recordings of {args.sites} sites; {processor()}, {os.cpu_count()} cores", flush=True
        )
        results, table = folder / "results", ("--deployments", folder / "deployments.csv")
        model = ("--model", folder / "model.onnx", "--threshold", f"{threshold(folder):.6f}")
        run(count, "detect", folder / "recordings", *model, *table, "--out", results)
        run(count, "activity", results, "--out", folder / "activity")
        run(count, "occupancy", results, *table, "--out", folder / "occupancy")
        told = (
            "--title",
            "Season",
            "--contact",
            "A <a@example.org>",
            "--licence",
            "CC0-1.0",
            "--design",
            "opportunistic",
        )
        form = ("--format", "camtrap-dp")
        run(count, "publish", results, *form, *told, *table, "--out", folder / "camtrap-dp")


if __name__ == "__main__":
    main()
