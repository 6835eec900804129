"""Many short recordings beside one long one of the same length, in one run.

    python benchmarks/predict_files.py [DATA] [--files 1000] [--rounds 3]

Both are scored by an untrained EfficientNet-B0 of 206 labels at 256×256 in ONNX Runtime, start-up excluded. Prints the
median over rounds, and its range, of the clips/s of the short ones over the clips/s of the long one.
"""

import argparse
import tempfile
import time
from pathlib import Path

import soundfile
from predict_speed import RATE_HZ, SHARED, show, write_model, write_recording


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=SHARED / "soundscapes")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_recording(args.data, folder / "long.ogg", args.files * 5 / 60)
        model = write_model(folder)
        import keras_birds
        from keras_birds.inference.scorer import score_recordings

        short = []
        with soundfile.SoundFile(folder / "long.ogg") as file:
            for k in range(args.files):
                short.append(folder / f"{k}.ogg")
                soundfile.write(short[-1], file.read(5 * RATE_HZ, "float32"), RATE_HZ)
        classifier = keras_birds.load(model)

        def clips_per_s(names: list[Path]) -> float:
            began = time.perf_counter()
            clips = sum(len(x.scores) for x in score_recordings(classifier, names))
            return clips / (time.perf_counter() - began)

        rates = [(clips_per_s(short), clips_per_s([folder / "long.ogg"])) for _ in range(args.rounds)]
        show(f"{args.files} recordings of 5 s, clips/s", [x for x, _ in rates], 1)
        show("one recording, clips/s", [x for _, x in rates], 1)
        show("ratio", [x / y for x, y in rates])


if __name__ == "__main__":
    main()
