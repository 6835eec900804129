"""What `detect --ray local` costs beside plain `detect`, on one machine and with its start-up excluded.

    python benchmarks/ray_overhead.py [DATA] [--minutes 60] [--rounds 3]

As many one-minute OGG files of real recordings are scored into a folder of results by an untrained EfficientNet-B0 of
206 labels at 256×256, by the plain engine and by a Ray cluster of this machine alone, by turns in the same process.
Both have scored two recordings before the clock starts. Prints medians over rounds and their range, and how many
recordings a second the command can write, which limits a cluster, when their scores cost nothing.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from predict_speed import SHARED, show, write_model, write_recording


def seconds(classifier, names, out: Path, score) -> float:
    """Scoring, with everything on the disk at the end."""
    from keras_birds.inference.scorer import DEFAULT_OPTIONS
    from keras_birds.results.detections import DetectionRules
    from keras_birds.results.results import Results

    rules = DetectionRules.of(classifier.labels)
    began = time.perf_counter()
    with Results(out, classifier.labels, classifier.model_id, rules, {}) as results:
        for scored in score(classifier, names, DEFAULT_OPTIONS, lambda _: None):
            assert not results.add(scored).failed
    taken = time.perf_counter() - began
    shutil.rmtree(out)
    return taken


def written_per_s(classifier, out: Path, minutes: int, count: int) -> float:
    """Recordings a second, some five detections in each window."""
    from keras_birds.inference.scorer import RecordingScores, RecordingStatus

    num_windows = 12 * minutes
    scores = np.random.default_rng(0).random((num_windows, len(classifier.labels)), np.float32) ** 60
    start_s, channel = 5.0 * np.arange(num_windows), np.zeros(num_windows, np.int16)

    def score(_classifier, names, _options, _on_scored):
        for name in names:
            recording = RecordingStatus(name, "ok", seconds=60.0 * minutes, windows=num_windows)
            yield RecordingScores(recording, start_s, start_s + 5, channel, scores)

    names = [f"/shared/plot/REC_{k:06d}_20250601_050000.flac" for k in range(count)]
    return count / seconds(classifier, names, out, score)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=SHARED / "soundscapes")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names = [str(folder / f"{k}.ogg") for k in range(args.minutes)]
        write_recording(args.data, folder / "0.ogg", 1)
        for name in names[1:]:
            shutil.copyfile(names[0], name)
        model = write_model(folder)

        import keras_birds
        from keras_birds.distributed.cluster import connect
        from keras_birds.distributed.predict import ClusterScorer
        from keras_birds.inference.scorer import score_recordings

        classifier = keras_birds.load(model)
        plain, ray, starts = [], [], []
        for _ in range(args.rounds):
            seconds(classifier, names[:2], folder / "warm", score_recordings)
            plain.append(seconds(classifier, names, folder / "plain", score_recordings))
            began = time.perf_counter()
            with connect("local"), ClusterScorer(classifier) as score:
                starts.append(time.perf_counter() - began)
                seconds(classifier, names[:2], folder / "warm", score)
                ray.append(seconds(classifier, names, folder / "ray", score))
        cpus = len(os.sched_getaffinity(0))
        print(f"{args.minutes} recordings of a minute, {cpus} processors, {args.rounds} rounds")
        show("plain, s", plain, 1)
        show("--ray local, s", ray, 1)
        show("--ray local / plain", [b / a for a, b in zip(plain, ray, strict=True)])
        print(f"{'start-up of Ray, not counted, s':<33}{statistics.median(starts):.1f}")
        for minutes, count in ((1, 3000), (60, 200)):
            rate = written_per_s(classifier, folder / "written", minutes, count)
            print(f"{f'written a second, {minutes} min each':<33}{rate:.0f}")


if __name__ == "__main__":
    main()
