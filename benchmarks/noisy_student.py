"""Noisy students on made soundscapes: macro AUC of test windows before and after each round.

    python benchmarks/noisy_student.py [DATA] [--seeds 0 1 2] [--rounds 3] [--epochs 48] [--out DIR] [--set ...]

DATA holds `animals` (440 real clips of 11 labels, with folds by source) and `background` (320 real clips without any).
Each seed has other folds: three are the labelled clips, as clean as they are, but for backgrounds that training mixes
in; of the fourth `keras-birds data soundscapes` makes recordings that nobody labelled, over one half of the
backgrounds; of the fifth the test, over the other half. Backgrounds are of rain, sea, fire and helicopters, no babies
nor clocks, and calls are 10 to 25 dB above them at the middle of the distances: a teacher must be right now and then.
It learns from the labelled clips alone, each as often as a student does; half of a student's clips are windows with
pseudo labels, on top. Then come `keras-birds pseudo` and `keras-birds train --rounds`, as a user calls them. From
scratch, images of 64 rows and 128 columns, each process on one thread, at most two at once; the seed is also that of
the training and of the soundscapes.

With --ceiling a model learns from the true labels of the recordings that nobody labelled: what perfect pseudo labels
alone would give.

Printed are, by round (0: the teacher), macro ROC-AUC and mean average precision of the test's windows, and CPU minutes
of all up to there; the interval of the gain is Student's, of 95 %, over seeds. What is finished in DIR is read.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CEILING_EPOCHS = 30  # of five times as many windows
N_FOLDS, LABELLED, UNLABELLED, TEST = 5, (0, 1, 2), (3,), (4,)
KINDS = ("rain", "sea_waves", "fire_crackling", "helicopter")
SETTINGS = (
    *("mel.n_fft=2048", "mel.hop_samples=1255", "mel.n_mels=64", "mel.height=64", "mel.width=128"),
    *("folds.hidden_fraction=0", "training.workers=1"),
)


def command(log: Path, *arguments: object) -> float:
    """Runs `keras-birds` on one thread; CPU minutes. What it says is in `log`, its end also in the error."""
    words = [sys.executable, "-m", "keras_birds", *map(str, arguments)]
    with log.open("a") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"keras-birds {' '.join(words[3:])}: {log.read_text()[-2000:]}")
    return (usage.ru_utime + usage.ru_stime) / 60


def subset(data: Path, folds: set[int], folder: Path) -> Path:
    """A data set of some folds, whose audio is linked."""
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(data / "train.csv", dtype=str)
    table[table["fold"].astype(int).isin(folds)].to_csv(folder / "train.csv", index=False)
    for name in ("train_audio", "taxonomy.csv"):
        if not (folder / name).exists():
            (folder / name).symlink_to((data / name).resolve())
    return folder


def half(backgrounds: Path, kinds: list[str], part: int, folder: Path) -> Path:
    """A folder of links to one half of the recordings of some kinds of background."""
    from keras_birds.data.soundscapes import background_part

    for kind in kinds:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        paths = [str(x) for x in (backgrounds / kind).resolve().iterdir()]
        for path in map(Path, background_part(paths, part, 2)):
            if not (folder / kind / path.name).exists():
                (folder / kind / path.name).symlink_to(path)
    return folder


class Seed:
    """All of one seed, in a folder; each step once."""

    def __init__(self, seed: int, args: argparse.Namespace, out: Path):
        self.seed, self.args, self.folder = seed, args, out / f"seed{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        background = (
            f"data.background={self.folder / 'background-1'}",
            f"augment.background.probability={args.mix}",
            "augment.background.snr_db=[-5.0, 15.0]",
        )
        settings = (*SETTINGS, *background * bool(args.mix), f"training.seed={seed}", *args.changes)
        self.settings = [x for setting in settings for x in ("--set", setting)]

    def step(self, name: str, *arguments: object) -> float:
        """A command, unless it is done; its CPU minutes."""
        done = self.folder / f"{name}.minutes"
        if not done.is_file():
            done.write_text(str(command(self.folder / f"{name}.log", *arguments)))
        return float(done.read_text())

    def run(self) -> list[tuple[float, float, float]]:
        """Macro AUC, mean average precision and CPU minutes by round, the teacher's first."""
        args, folder = self.args, self.folder
        drawn = ("--workers", 1, "--seed", self.seed, "--snr-db", *args.snr_db)
        for name, folds, part, count in (
            ("labelled", LABELLED, 0, 0),
            ("unlabelled", UNLABELLED, 1, args.unlabelled),
            ("test", TEST, 2, args.test),
        ):
            folds = {(x + self.seed) % N_FOLDS for x in folds}
            source = subset(args.data / "animals", folds, folder / f"{name}-clips")
            if part:
                noise = half(
                    args.data / "background" / "audio", args.kinds, part, folder / f"background-{part}"
                )
                out = ("--background", noise, "--out", folder / name, "--count", count)
                self.step(f"make-{name}", "data", "soundscapes", "--data", source, *drawn, *out)
        train = ("train", "--data", folder / "labelled-clips", "--fold", "full", *self.settings)
        teacher, students, pseudo = (folder / x for x in ("teacher", "students", "pseudo"))
        epochs = f"training.epochs={args.epochs}"
        if args.ceiling:
            made, ceiling = folder / "unlabelled", folder / "ceiling"
            true = (*SETTINGS, "data.annotations=annotations.csv", f"training.seed={self.seed}")
            true = [x for y in (*true, f"training.epochs={CEILING_EPOCHS}") for x in ("--set", y)]
            go_on = ("--resume",) * ceiling.exists()
            learn = ("train", "--config", "recommended", "--data", made, "--fold", "full", "--out", ceiling)
            self.step("ceiling", *learn, *true, *go_on)
            auc, ap = self.judge(ceiling)
            print(f"seed {self.seed}: {auc:.4f} (mAP {ap:.4f}) learnt from true labels", flush=True)
        go_on = ("--resume",) * teacher.exists()
        minutes = self.step(
            "teacher", *train, "--config", "recommended", "--out", teacher, "--set", epochs, *go_on
        )
        found = [(*self.judge(teacher), minutes)]
        rules = ("--power", args.power, "--min-confidence", args.min_confidence)
        minutes += self.step(
            "pseudo", "pseudo", "--model", teacher, "--data", folder / "unlabelled", "--out", pseudo, *rules
        )
        of_students = ("--set", f"training.epochs={args.epochs}", "--set", f"data.pseudo={pseudo}")
        go_on = ("--resume",) * students.exists()
        self.step(
            *("students", *train, "--config", "student", "--rounds", args.rounds),
            *("--out", students, *of_students, *go_on),
        )
        import pandas as pd

        spent = pd.read_csv(students / "rounds.csv").set_index("round")["cpu_minutes"]
        for k in range(1, args.rounds + 1):
            minutes += float(spent[k])
            found.append((*self.judge(students / f"round_{k}"), minutes))
        return found

    def judge(self, run: Path) -> tuple[float, float]:
        """Macro AUC and mean average precision of the test's windows."""
        test, name = self.folder / "test", f"judge-{run.name}"
        truth = ("--data", test, "--annotations", test / "annotations.csv")
        self.step(name, "evaluate", "--model", run / "full", *truth, "--out", self.folder / name)
        report = json.loads((self.folder / name / "report.json").read_text())
        return report["macro_auc"]["value"], report["cmap"]


def report(seeds: list[int], found: list[list[tuple[float, float, float]]]) -> None:
    import numpy as np
    from scipy import stats

    figures = np.array(found)  # [seed, round, (AUC, mAP, minutes)]
    print("| round | " + " | ".join(f"seed {x}" for x in seeds) + " | macro AUC | gain | mAP | CPU minutes |")
    print("|---" * (len(seeds) + 5) + "|")
    for k in range(figures.shape[1]):
        auc, ap, minutes = figures[:, k].T
        gain = auc - figures[:, 0, 0]
        width = f" ± {stats.t.ppf(0.975, len(seeds) - 1) * stats.sem(gain):.4f}" if len(seeds) > 1 else ""
        cells = [*(f"{x:.4f}" for x in auc), f"{auc.mean():.4f}"]
        cells += [
            f"{gain.mean():+.4f}{width}" if k else "",
            f"{ap.mean():.4f}",
            f"{minutes.mean():.1f}",
        ]
        print(f"| {k} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=SHARED)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="[default: 3]")
    parser.add_argument(
        "--epochs", type=int, default=48, help="Of the teacher and of each student. [default: 48]"
    )
    parser.add_argument("--unlabelled", type=int, default=120, help="Minutes without labels. [default: 120]")
    parser.add_argument("--test", type=int, default=40, help="Minutes to judge by. [default: 40]")
    parser.add_argument("--snr-db", type=float, nargs=2, default=[10, 25], help="[default: 10 25]")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), help="Of background.")
    parser.add_argument(
        "--mix", type=float, default=0.5, help="Share of clips over background. [default: 0.5]"
    )
    parser.add_argument("--power", type=float, default=1.0, help="As of keras-birds pseudo. [default: 1]")
    parser.add_argument("--min-confidence", type=float, default=0.0, help="The same. [default: 0]")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--ceiling", action="store_true", help="Learn from the true labels too.")
    parser.add_argument("--processes", type=int, default=2, help="Seeds at a time. [default: 2]")
    parser.add_argument("--out", type=Path, help="Where the runs go. [default: nowhere]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = (args.out or Path(temporary)).resolve()

        def one(seed: int) -> list[tuple[float, float, float]]:
            found = Seed(seed, args, out).run()
            told = ", ".join(f"{auc:.4f}" for auc, *_ in found)
            print(f"seed {seed}: {told} by round; {found[-1][2]:.1f} CPU minutes", flush=True)
            return found

        with ThreadPoolExecutor(args.processes) as pool:
            found = list(pool.map(one, args.seeds))
    report(args.seeds, found)


if __name__ == "__main__":
    main()
