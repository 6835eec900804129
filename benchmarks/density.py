"""Whether the 95 % interval of `keras-birds density` covers the truth, by reviews simulated on a real model's scores.

    keras-birds detect DATA/train_audio --model birdnet --keep-scores --out scores
    python benchmarks/density.py scores DATA [--draws 500] [--reviews 100]

DATA is a data set in BirdCLEF's layout, whose labels are the truth: a window of a species' recording holds its call,
the other recordings' windows don't. All species are pooled: scores of a species in its own windows and in the others'.
From these a season of 20,000 windows is made for each prevalence, windows are drawn by bins of the score as `segments
--pick stratified` draws them, and "reviewed" by the truth. Prints how often the interval covers, its mean width and the
mean estimate, for each estimator.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from keras_birds.evaluation.density import METHODS, Bins, prevalence
from keras_birds.results.results import score_labels
from keras_birds.results.strata import BINS, draw_rows, halving_edges, read_window_scores

WINDOWS, PREVALENCES = 20_000, (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


def real_scores(scores: Path, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scores of windows that hold a label's call and of those that don't, all labels pooled."""
    table = pd.read_csv(data / "train.csv")
    known = score_labels(scores)
    wanted = dict(zip(table["primary_label"], table["scientific_name"], strict=True))
    column_of = {name.partition("_")[0]: name for name in known} | {x: x for x in known}
    wanted = {x: column_of[y] for x, y in wanted.items() if y in column_of}
    found = read_window_scores(scores, sorted(set(wanted.values())))
    labels = np.array([Path(x.file).parent.name for x in found.recordings])[found.recording]
    is_there = {y: labels == x for x, y in wanted.items()}
    right = np.concatenate([found.scores[x][there] for x, there in is_there.items()])
    wrong = np.concatenate([found.scores[x][~there] for x, there in is_there.items()])
    return right, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scores", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--reviews", type=int, default=100)
    args = parser.parse_args()
    right, wrong = real_scores(args.scores, args.data)
    print(
        f"{len(right):,} scores of windows with the call, {len(wrong):,} without; {args.reviews} reviews a draw"
    )
    print("prevalence  estimator  covered  mean width  mean estimate")
    covered = dict.fromkeys(METHODS, 0)
    for wanted in PREVALENCES:
        rng = np.random.default_rng(1)
        calls = round(wanted * WINDOWS)
        truth = np.arange(WINDOWS) < calls
        found = {x: [] for x in METHODS}
        for draw in range(args.draws):
            scores = np.concatenate([rng.choice(right, calls), rng.choice(wrong, WINDOWS - calls)])
            edges = halving_edges(scores, BINS)
            rows = draw_rows(edges, scores, args.reviews, draw)
            bins = Bins.of(edges, scores, rows, truth[rows])
            for method in METHODS:
                found[method].append(prevalence(bins, method, draws=1000, seed=draw))
        for method in METHODS:
            low, high, value = np.array([(x.low, x.high, x.value) for x in found[method]]).T
            hits = (low <= truth.mean()) & (truth.mean() <= high)
            covered[method] += hits.sum()
            print(
                f"{wanted:10.3f}  {method:9}  {hits.mean():7.1%}  {(high - low).mean():10.4f}  {value.mean():13.4f}"
            )
    total = args.draws * len(PREVALENCES)
    print("all:", ", ".join(f"{x} {n / total:.1%}" for x, n in covered.items()))


if __name__ == "__main__":
    main()
