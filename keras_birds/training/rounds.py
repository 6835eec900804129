"""Rounds of noisy students: each learns from what the models of the round before hear, the first from `data.pseudo`.

OUT/round_N/                  an ordinary run
OUT/round_N/pseudo/           what its models hear in the same recordings; not of the last round
OUT/round_N/cpu_seconds.txt   processor time, as of the last whole epoch
OUT/rounds.csv                macro ROC-AUC of each fold and in the mean, windows, labels a window, CPU minutes of each

After Xie et al. 2020, "Self-training with Noisy Student", arXiv:1911.04252: a student begins anew, with the noise of
augmentation, dropout and stochastic depth, and is the next teacher.
"""

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from keras_birds.atomic import atomic_path
from keras_birds.config import Config
from keras_birds.errors import ConfigError, DataError
from keras_birds.inference.classifier import load
from keras_birds.inference.members import MemberScorer
from keras_birds.inference.scorer import PART_WINDOWS, ScoreOptions, score_recordings
from keras_birds.models.metadata import ModelMetadata
from keras_birds.progress import Reporter
from keras_birds.results.pseudo import SUMMARY, PseudoLabels
from keras_birds.results.pseudo_writer import PseudoWriter
from keras_birds.results.report import describe_problem
from keras_birds.run_layout import CONFIG, ONNX, RUNS_DIR, fold_folder
from keras_birds.training.pseudo import labels_of_fold
from keras_birds.training.train import RunResult, train

ROUNDS = "rounds.csv"
LABELLED = "pseudo"
_CPU = "cpu_seconds.txt"
_TELL_EVERY_S = 60.0


@dataclass(frozen=True)
class Round:
    """How a round ended.

    Args:
        number: from 1; 0 for the models that labelled first.
        macro_auc: exact out-of-fold ROC-AUC by fold, or not a number.
        folder: of the run.
        windows: with labels, to learn from; of several folds the mean.
        mean_sum: of a window's labels.
        cpu_minutes: of training, and of labelling for the next round; the last whole epoch's where it was stopped.
    """

    number: int
    macro_auc: dict[str, float]
    folder: Path
    windows: int = 0
    mean_sum: float = math.nan
    cpu_minutes: float = math.nan

    @property
    def mean_macro_auc(self) -> float:
        """Over folds."""
        return float(np.mean(list(self.macro_auc.values())))


def train_rounds(
    config: Config,
    data: str | Path,
    fold: int | str,
    out: str | Path | None,
    rounds: int,
    resume: bool,
    reporter: Reporter,
) -> Iterator[list[Round]]:
    """Trains so many rounds, and gives all so far as soon as one is trained and has labelled for the next.

    Args:
        config: the settings of all; `data.pseudo` holds what the first learns from, and says which recordings and by
            which rules the others label.
        data, fold: as for `train`.
        out: a new folder, or with `resume` one to go on with, also for more rounds; `None` for `runs/<time>`.
        rounds: how many.
        resume: whether rounds that were trained stay, and one that was stopped goes on, training or labelling; also
            where `out` was moved since.
        reporter: gets lines and progress.

    Raises:
        ConfigError: if there are no labels to begin with, or `out` can't be used; else as `train`.
    """
    if not config.data.pseudo:
        raise ConfigError(
            "--rounds must begin with labels that `keras-birds pseudo` wrote. Received: data.pseudo is empty; pass "
            "--set data.pseudo=FOLDER"
        )
    first, out = PseudoLabels(config.data.pseudo), _open(out, resume)
    known = [x] if config.data.pseudo_teachers == "fold" and (x := _teacher(first, fold)) else []
    for number in range(1, rounds + 1):
        reporter.log(f"round {number} of {rounds}")
        folder = out / f"round_{number}"
        clock = _Clock(folder / _CPU)
        if is_begun := (folder / CONFIG).is_file():
            _follow(folder / CONFIG, config)
        result = train(config, data, fold, folder, is_begun, reporter, [clock])
        found = _round(number, result, config)
        _write([*known, replace(found, cpu_minutes=clock.stop())], out / ROUNDS)
        if number < rounds:
            _label(folder, first, reporter, clock)
            config = config.model_copy(
                update={"data": config.data.model_copy(update={"pseudo": str(folder / LABELLED)})}
            )
        known.append(replace(found, cpu_minutes=clock.stop()))
        _write(known, out / ROUNDS)
        yield list(known)


def rounds_table(rounds: Sequence[Round]) -> pd.DataFrame:
    """A row a round, as `rounds.csv` has it; `fold0`, ... where there are several."""
    rows = []
    for x in rounds:
        folds = {f"fold{k}": auc for k, auc in x.macro_auc.items()} if len(x.macro_auc) > 1 else {}
        row: dict[str, Any] = {"round": x.number, "macro_auc": x.mean_macro_auc, **folds}
        row |= {"windows": x.windows or None, "labels_a_window": x.mean_sum, "cpu_minutes": x.cpu_minutes}
        rows.append(row)
    return pd.DataFrame(rows).astype({"windows": "Int64"})


def _open(out: str | Path | None, resume: bool) -> Path:
    """The absolute path of the folder, as it is in the settings of the rounds."""
    if resume:
        if out is None or not (Path(out) / "round_1").is_dir():
            where = "no --out" if out is None else f"{out}, without round_1"
            raise ConfigError(f"--resume with --rounds must find rounds. Received: {where}; pass their --out")
    elif out is not None and Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())):
        raise ConfigError(
            f"--out must be a new or empty folder. Received: {out}; choose another, or pass --resume to go on with it"
        )
    return Path(RUNS_DIR / time.strftime("%Y%m%d-%H%M%S") if out is None else out).absolute()


def _follow(path: Path, config: Config) -> None:
    """Writes into the settings of a round where its labels lie now, if the folder of all rounds was moved since.

    That they are the same is checked by their checksums.
    """
    stored, place = Config.load(path), Path(config.data.pseudo)
    of_round_before = (
        place.is_relative_to(path.parents[1]) and Path(stored.data.pseudo).parts[-2:] == place.parts[-2:]
    )
    if of_round_before and stored.data.pseudo != config.data.pseudo:
        moved = stored.model_copy(update={"data": stored.data.model_copy(update={"pseudo": str(place)})})
        with atomic_path(path) as temporary:
            temporary.write_text(moved.to_toml(), encoding="utf-8")


def _teacher(pseudo: PseudoLabels, fold: int | str) -> Round | None:
    """The models that labelled first, by the same folds, where they are known."""
    run = pseudo.teacher.run
    folds = [k for k in pseudo.teacher.folds if fold in ("all", k)]
    if run is None or not folds:
        return None
    found = {}
    for k in folds:
        if (path := fold_folder(run, k) / ONNX).is_file():
            found[str(k)] = ModelMetadata.read_onnx(path).metrics.get("macro_auc", math.nan)
    return Round(0, found, run) if found else None


def _round(number: int, result: RunResult, config: Config) -> Round:
    pseudo, per_label = PseudoLabels(config.data.pseudo), config.data.pseudo_per_label
    labels = ModelMetadata.read_onnx(result.folds[0].folder / ONNX).labels
    counts, sums = [], []
    for x in result.folds:
        soft = labels_of_fold(pseudo, config, labels, x.fold, Reporter())
        soft = soft.surest(per_label) if per_label else soft
        counts.append(len(soft.windows))
        sums.append(float(soft.targets.sum(axis=1).mean()))
    aucs = {str(x.fold): x.macro_auc for x in result.folds}
    return Round(number, aucs, result.out, round(np.mean(counts)), float(np.mean(sums)))


def _label(run: Path, first: PseudoLabels, reporter: Reporter, clock: "_Clock") -> None:
    """A run's models label the recordings of `first` by the same rules, or go on with it."""
    folder = run / LABELLED
    if (folder / SUMMARY).is_file():
        with suppress(DataError):
            PseudoLabels(folder)
            return
    files, classifier = first.recordings, load(run)
    options = ScoreOptions(first.overlap_s, part_windows=PART_WINDOWS)
    done, told_at = 0, time.monotonic()
    with PseudoWriter(folder, classifier, options.overlap_s) as sink:
        for scored in score_recordings(MemberScorer(classifier), sink.to_do(files), options):
            if (recording := sink.add(scored)) is None:
                continue
            if problem := describe_problem(recording):
                reporter.log(problem)
            done += 1
            now = f"{sink.done_before + done} of {len(files)} recordings labelled"
            reporter.progress("Labelling recordings", sink.done_before + done, len(files))
            if time.monotonic() > told_at + _TELL_EVERY_S:
                told_at = time.monotonic()
                clock.stop()
                reporter.log(now)
        sink.finish()
        reporter.progress("Labelling recordings", 0, 0)
        sink.write_labels(first.rules)
    reporter.log(f"{run.name}: labelled {len(files)} recordings for the next round")


def _write(rounds: Sequence[Round], path: Path) -> None:
    with atomic_path(path) as temporary:
        rounds_table(rounds).to_csv(temporary, index=False, float_format="%.6g")


class _Clock(keras.callbacks.Callback):
    """Adds up a round's processor time in a file, epoch by epoch, so that a round that goes on counts on from there."""

    def __init__(self, path: Path):
        super().__init__()
        self._path, self._before_s, self._began_s = path, 0.0, _cpu_s()
        if path.is_file():
            self._before_s = float(path.read_text(encoding="utf-8"))

    def stop(self) -> float:
        """The minutes so far, which the file has then."""
        spent_s = self._before_s + _cpu_s() - self._began_s
        with atomic_path(self._path) as temporary:
            temporary.write_text(f"{spent_s:.1f}\n", encoding="utf-8")
        return spent_s / 60

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves it."""
        self.stop()


def _cpu_s() -> float:
    """Of this process and those that it started and that ended."""
    return sum(os.times()[:4])
