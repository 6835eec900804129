"""How near prediction comes to what the processors can do, and the published style beside it, in one run.

    python benchmarks/predict_speed.py [DATA] [--minutes 60] [--rounds 5]

One long OGG of real recordings is scored by an untrained EfficientNet-B0 of 206 labels at 256×256 in ONNX Runtime.
"Ideal" is processors × 1000 / (decode + mel + model core-milliseconds of a clip), each measured alone on one thread in
the same round; "of ideal" is the engine's clips/s over that, start-up excluded. "Published style" loads the whole file
with librosa, computes each window's mel with librosa and scores batches of 32 in eager PyTorch with all processors.
Prints medians over rounds and their range.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
RATE_HZ, CLIP_S = 32_000, 5


def write_recording(data: Path, out: Path, minutes: float) -> None:
    """Joins the recordings of a folder to one of `minutes`, as OGG Vorbis at 32 kHz."""
    files = sorted(data.rglob("*.ogg"))
    if not files:
        sys.exit(f"{data}: there must be OGG recordings")
    left = round(minutes * 60 * RATE_HZ)
    with soundfile.SoundFile(out, "w", RATE_HZ, 1, format="OGG", subtype="VORBIS") as target:
        while left > 0:
            for file in files:
                samples, rate_hz = soundfile.read(file, dtype="float32")
                if rate_hz == RATE_HZ and left > 0:
                    # libsndfile's Vorbis encoder crashes on very long single writes.
                    for start in range(0, min(len(samples), left), RATE_HZ):
                        target.write(samples[start : min(start + RATE_HZ, left)])
                    left -= min(len(samples), left)


def write_model(folder: Path) -> Path:
    """Exports an untrained network, in a process of its own: here nothing shall run but the engine."""
    code = f"""
import keras_birds
from keras_birds.models.metadata import ModelMetadata
from keras_birds.models.onnx_export import export_onnx
from keras_birds.labels import LabelSet
config = keras_birds.Config.load("baseline", ["model.pretrained=none"])
keras_birds.build_model(config, 206).save({str(folder / "model.keras")!r})
labels = LabelSet([f"label{{i}}" for i in range(206)])
metadata = ModelMetadata("benchmark", labels, config.audio, config.mel)
export_onnx({str(folder / "model.keras")!r}, {str(folder / "model.onnx")!r}, metadata)
"""
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
    return folder / "model.onnx"


def core_ms(classifier, path: Path) -> dict[str, float]:
    """Milliseconds of one thread for a clip: decoding, mel, model; each alone."""
    from itertools import islice

    from keras_birds.audio.clips import sliding_windows
    from keras_birds.audio.stream import open_stream

    audio, clips = classifier.audio, []
    began = time.perf_counter()
    with open_stream(path, audio) as stream:
        clips = [x.clip for x in islice(sliding_windows(stream.blocks, audio), 240)]
    decode = (time.perf_counter() - began) / len(clips)
    n = classifier.batch_size
    batches = [np.stack(clips[x : x + n]) for x in range(0, 160, n)]
    began = time.perf_counter()
    images = [classifier.inputs(x) for x in batches]
    mel = (time.perf_counter() - began) / len(batches) / n
    classifier.probabilities(images[0])
    began = time.perf_counter()
    for x in images:
        classifier.probabilities(x)
    model = (time.perf_counter() - began) / len(images) / n
    return {"decode": 1000 * decode, "mel": 1000 * mel, "model": 1000 * model}


def engine_clips_per_s(classifier, path: Path) -> float:
    from keras_birds.inference.scorer import score_recordings

    began = time.perf_counter()
    (found,) = score_recordings(classifier, [path])
    return len(found.scores) / (time.perf_counter() - began)


def published_style(path: Path) -> float:
    """Clips/s, imports and a first batch excluded. Runs in a process of its own."""
    import librosa
    import torch
    from torch_baseline import EfficientNetB0

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = EfficientNetB0(206).eval()

    def scores(windows):
        images = []
        for window in windows:
            power = librosa.feature.melspectrogram(
                y=window, sr=RATE_HZ, n_fft=1024, hop_length=512, n_mels=128, fmin=50, fmax=14_000
            )
            db = librosa.power_to_db(power, ref=np.max)
            images.append((db - db.min()) / (db.max() - db.min() + 1e-6))
        batch = torch.nn.functional.interpolate(
            torch.from_numpy(np.stack(images))[:, None], (256, 256), mode="bilinear"
        )
        with torch.no_grad():
            return torch.sigmoid(model(batch)).numpy()

    scores([np.random.default_rng(0).normal(size=CLIP_S * RATE_HZ).astype(np.float32)] * 32)
    began = time.perf_counter()
    samples, _ = librosa.load(path, sr=RATE_HZ)
    windows = samples[: len(samples) // (CLIP_S * RATE_HZ) * CLIP_S * RATE_HZ].reshape(-1, CLIP_S * RATE_HZ)
    for start in range(0, len(windows), 32):
        scores(windows[start : start + 32])
    return len(windows) / (time.perf_counter() - began)


def show(name: str, values: list[float], digits: int = 2) -> None:
    low, high = min(values), max(values)
    print(f"{name:<28}{statistics.median(values):>8.{digits}f}   ({low:.{digits}f} to {high:.{digits}f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=SHARED / "soundscapes")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--published-style", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.published_style:
        print(json.dumps(published_style(args.published_style)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_recording(args.data, folder / "long.ogg", args.minutes)
        model = write_model(folder)
        began = time.perf_counter()
        import keras_birds

        classifier = keras_birds.load(model)
        start_s = time.perf_counter() - began
        cpus = len(os.sched_getaffinity(0))
        parts: dict[str, list[float]] = {"decode": [], "mel": [], "model": []}
        ideals, engines, published, shares, ratios = [], [], [], [], []
        engine_clips_per_s(classifier, folder / "long.ogg")  # a virtual machine's processors wake slowly
        for _ in range(args.rounds):
            found = core_ms(classifier, folder / "long.ogg")
            for name, value in found.items():
                parts[name].append(value)
            ideals.append(cpus * 1000 / sum(found.values()))
            engines.append(engine_clips_per_s(classifier, folder / "long.ogg"))
            command = [sys.executable, __file__, "--published-style", folder / "long.ogg"]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            published.append(json.loads(printed.splitlines()[-1]))
            shares.append(engines[-1] / ideals[-1])
            ratios.append(engines[-1] / published[-1])
        print(
            f"{args.minutes:g} minutes of 32 kHz OGG, {cpus} processors; start-up {start_s:.2f} s, not counted"
        )
        for name, values in parts.items():
            show(f"{name}, core-ms a clip", values)
        show("ideal, clips/s", ideals, 1)
        show("keras-birds, clips/s", engines, 1)
        show("published style, clips/s", published, 1)
        show("keras-birds, x realtime", [CLIP_S * x for x in engines], 0)
        show("of ideal", shares)
        show("x published style", ratios)


if __name__ == "__main__":
    main()
