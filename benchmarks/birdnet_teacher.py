"""Trains `recommended` on few labelled clips, with the others labelled by a teacher and without, and prints the gain.

    keras-birds models add birdnet
    python benchmarks/birdnet_teacher.py [DATA] [--clips 4] [--epochs 24] [--folds 0 1 2 3 4] [--set KEY=VALUE ...]

From scratch, with the folds of DATA's `fold` column. Of each fold, so many clips of each label, drawn with seed 0 from
the other folds, are labelled; the rest of the other folds is what the teacher labels; the whole fold is for validation
alone. Both ways have the same epochs of the same number of steps: without a teacher, each labelled clip comes several
times in an epoch. They train side by side, each on one thread and in a process of its own. macro AUC and top-1 accuracy
are of the last epoch's out-of-fold scores, CPU minutes of the whole command; the interval of the gain is Student's, of
95 %, over folds. What is finished in DIR is read. `--plain` also trains without a teacher on each labelled clip once an
epoch.
"""

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from recommended_recipe import ANIMALS, cpu_minutes, finished, train

WITHOUT, TAUGHT, PLAIN = "without", "taught", "plain"


def few_clips(data: Path, fold: int, clips: int, folder: Path, seed: int = 0) -> tuple[Path, int]:
    """Data sets of a fold whole and so many clips of each label of the others, below `folder`, and how many times as
    many the others have: `few`, with the rest of the others in `rest.csv`, and `repeated`, where each is that often.
    """
    import pandas as pd

    table = pd.read_csv(data / "train.csv")
    held_out = table["fold"] == fold
    drawn = table[~held_out].groupby("primary_label").sample(clips, random_state=seed)
    rest = table[~held_out & ~table.index.isin(drawn.index)]
    times = round(1 + len(rest) / len(drawn))
    repeated = [drawn.assign(filename=f"again{k}/" + drawn["filename"]) for k in range(1, times)]
    for name, rows in {
        "few": [table[held_out], drawn],
        "repeated": [table[held_out], drawn, *repeated],
    }.items():
        audio = folder / name / "train_audio"
        audio.mkdir(parents=True, exist_ok=True)
        pd.concat(rows).to_csv(folder / name / "train.csv", index=False)
        links = {folder / name / "taxonomy.csv": data / "taxonomy.csv"}
        links |= {audio / x.name: x for x in (data / "train_audio").iterdir()}
        links |= {audio / f"again{k}": data / "train_audio" for k in range(1, times)}
        for link, target in links.items():
            if not link.is_symlink():
                link.symlink_to(target.resolve())
    paths = str(data.resolve() / "train_audio") + "/" + rest["filename"]
    paths.to_frame("path").to_csv(folder / "rest.csv", index=False)
    return folder, times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ANIMALS)
    parser.add_argument("--clips", type=int, default=4, help="Of each label. [default: 4]")
    parser.add_argument("--epochs", type=int, default=24, help="[default: 24]")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--plain", action="store_true", help="Without a teacher on few steps, too.")
    parser.add_argument("--out", type=Path, help="Where the runs go. [default: nowhere]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        compare(args, args.out or Path(temporary))


def compare(args: argparse.Namespace, out: Path) -> None:
    """Prints a line a fold, as it goes, and the mean gain."""
    from keras_birds.evaluation.metrics import top1_accuracy
    from keras_birds.nn.metrics import macro_auc

    ways = (WITHOUT, TAUGHT, *[PLAIN] * args.plain)
    aucs: dict[str, list[float]] = {way: [] for way in ways}
    print(
        f"{args.clips} clips a label, {args.epochs} epochs: macro AUC (top-1 accuracy; CPU minutes)",
        flush=True,
    )
    for fold in args.folds:
        data, times = few_clips(args.data, fold, args.clips, out / f"data{fold}")
        teacher = "data.unlabelled=" + str(data / "rest.csv"), f"data.pseudo_fraction={1 - 1 / times}"
        sets = dict.fromkeys(ways, (data / "few", ()))
        sets |= {
            WITHOUT: (data / "repeated", ()),
            TAUGHT: (data / "few", ("training.teacher=birdnet", *teacher)),
        }
        changes = ("training.seed=0", f"training.epochs={args.epochs}", *args.changes)
        with ThreadPoolExecutor(2) as pool:
            jobs = [
                pool.submit(train, "recommended", folder, out / f"{way}{fold}", fold, (*changes, *more))
                for way, (folder, more) in sets.items()
            ]
            for job in jobs:
                job.result()
        told = []
        for way in ways:
            (found,) = finished(out / f"{way}{fold}", [fold])
            targets, scores = found.oof.targets, found.oof.scores
            aucs[way].append(macro_auc(targets, scores))
            top1, minutes = top1_accuracy(targets, scores), cpu_minutes(found.folder)
            told.append(f"{way} {aucs[way][-1]:.4f} ({top1:.3f}; {minutes:.1f})")
        print(f"fold {fold}: {', '.join(told)}", flush=True)
    report(aucs)


def report(aucs: dict[str, list[float]]) -> None:
    """Prints the means, and what the teacher gives beside each other way."""
    import numpy as np
    from scipy import stats

    print("mean: " + ", ".join(f"{way} {np.mean(found):.4f}" for way, found in aucs.items()))
    for way in aucs.keys() - {TAUGHT}:
        gains = np.subtract(aucs[TAUGHT], aucs[way])
        width = stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains) if len(gains) > 1 else np.nan
        print(f"the teacher gives {gains.mean():+.4f} ± {width:.4f} beside {way}")


if __name__ == "__main__":
    main()
