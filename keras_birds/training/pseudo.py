"""Pseudo labels as a run learns from them: what is checked before it begins, and what each fold gets."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np

from keras_birds.atomic import write_json
from keras_birds.checksum import sha256_of
from keras_birds.config import Config
from keras_birds.data.catalog import Catalog
from keras_birds.data.folds import Split
from keras_birds.data.soft_labels import SoftLabels
from keras_birds.data.unlabelled import require_strangers
from keras_birds.errors import ConfigError, DataError
from keras_birds.labels import LabelSet
from keras_birds.progress import Reporter
from keras_birds.results.pseudo import PseudoLabels
from keras_birds.run_layout import CONFIG, FULL, Fold

_SETTING = "data.pseudo"
_LABEL_OTHERS = "label the others alone, with a new --out"
_TOLERANCE_S = 1e-3
_FLATTERED = "out-of-fold scores are flattered"


def open_pseudo(
    config: Config, catalog: Catalog, split: Split, folds: list[Fold], reporter: Reporter
) -> PseudoLabels | None:
    """The labels of `data.pseudo`, whatever is wrong with them told before a run begins; `None` where it is empty.

    Raises:
        ConfigError: if the settings want labels and name none, or a fold would learn from models that heard what it is
            measured on.
        DataError: if there are no such labels, or they are of recordings that the data set has, too, or of other
            labels, or the recordings aren't there.
    """
    if not config.data.pseudo:
        if config.augment.mixup.partner == "pseudo" and not config.data.unlabelled:
            raise ConfigError(
                'data.pseudo must name what `keras-birds pseudo` wrote, with augment.mixup.partner = "pseudo". '
                "Received: none; pass --set data.pseudo=FOLDER"
            )
        return None
    pseudo = PseudoLabels(config.data.pseudo)
    recordings = pseudo.recordings
    require_strangers(_SETTING, recordings, catalog, _LABEL_OTHERS)
    if gone := [x for x in recordings if not Path(x).is_file()]:
        raise DataError(
            f"data.pseudo: recordings with labels must be where they were labelled. Received: {len(gone)} of "
            f"{len(recordings)} that aren't there, first {gone[0]}; bring them back, or label them where they are now"
        )
    for fold in folds:
        _read(pseudo, config, catalog.labels, fold)
    if config.data.pseudo_teachers == "all":
        reporter.log(_told_of_all(pseudo, catalog, split))
    else:
        _check_division(pseudo, catalog, split)
        if _learnt_from_all(pseudo):
            reporter.log(f"{_SETTING}: its teacher learnt from labels of all models: {_FLATTERED}")
    return pseudo


def keep_pseudo(path: Path, pseudo: PseudoLabels) -> None:
    """Notes in a run which labels it began with; a `DataError` if they aren't those that an earlier part of it had."""
    tables = {x: sha256_of(pseudo.folder / x) for x in pseudo.about["tables"]}
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8"))["sha256"] != tables:
            raise DataError(
                f"--resume must use the pseudo labels that {path.parent} began with. Received: {pseudo.folder}, which "
                "changed since; start a new run"
            )
        return
    models = list(pseudo.teacher.model_ids)
    write_json(path, {"folder": str(pseudo.folder.resolve()), "teacher": models, "sha256": tables})


def labels_of_fold(
    pseudo: PseudoLabels, config: Config, labels: LabelSet, fold: Fold, reporter: Reporter
) -> SoftLabels:
    """What a fold learns from."""
    soft = _read(pseudo, config, labels, fold)
    whose = "all models" if _member(config, fold) is None else f"the teacher's fold {fold}"
    mean_sum = float(soft.targets.sum(axis=1).mean())
    reporter.log(
        f"fold {fold}: {len(soft.windows)} windows with pseudo labels by {whose}, {mean_sum:.2f} in the mean"
    )
    return soft


def _member(config: Config, fold: Fold) -> int | None:
    """The fold whose model labels for a fold; `None` for the mean of all."""
    return None if fold == FULL or config.data.pseudo_teachers == "all" else int(fold)


def _read(pseudo: PseudoLabels, config: Config, labels: LabelSet, fold: Fold) -> SoftLabels:
    soft, clip_s = pseudo.read(labels, _member(config, fold)), config.audio.window_s
    if longer := next((x for x in soft.windows if x.end_s - x.start_s > clip_s + _TOLERANCE_S), None):
        raise DataError(
            f"{pseudo.folder}: labelled windows must be no longer than a clip ({clip_s:g} s): their labels "
            f"may lie outside of it. Received: {longer.end_s - longer.start_s:g} s; label with a model of such clips"
        )
    return soft


def _check_division(pseudo: PseudoLabels, catalog: Catalog, split: Split) -> None:
    """A `ConfigError` unless the teacher's folds are the student's."""
    run, found = pseudo.teacher.run, _teachers_split(pseudo, catalog)
    if found is not None and np.array_equal(found.fold, split.fold):
        return
    if run is None:
        why, how = f"models of no run ({', '.join(pseudo.teacher.model_ids)})", ""
    else:
        why = f"{run}, with {'other recordings' if found is None else 'another division'}"
        how = f"copy [folds] from {run / CONFIG}, or "
    raise ConfigError(
        'the teacher must be a run with the same folds, with data.pseudo_teachers = "fold": else a fold would learn '
        f"from models that heard what it is measured on. Received: {why}; {how}pass --set data.pseudo_teachers=all, "
        "which flatters out-of-fold scores"
    )


def _told_of_all(pseudo: PseudoLabels, catalog: Catalog, split: Split) -> str:
    found = _teachers_split(pseudo, catalog)
    if found is None:
        return f"{_SETTING}: what its models learnt from isn't known here: scores may be flattered"
    heard = int((found.fold[split.hidden_rows] != -1).sum())
    also = f", and those of {heard} hidden recordings, which they learnt from" if heard else ""
    who = "all models labelled, also those that learnt from what a fold is measured on"
    return f"{_SETTING}: {who}: {_FLATTERED}{also}"


def _learnt_from_all(pseudo: PseudoLabels) -> bool:
    """Whether the teacher, or a teacher of its, learnt from models of all folds, as far as their runs are there."""
    run = pseudo.teacher.run
    if run is None or not (run / CONFIG).is_file():
        return False
    data = Config.load(run / CONFIG).data
    if not data.pseudo or data.pseudo_teachers == "all":
        return bool(data.pseudo)
    with suppress(DataError):
        return _learnt_from_all(PseudoLabels(data.pseudo))
    return False


def _teachers_split(pseudo: PseudoLabels, catalog: Catalog) -> Split | None:
    """The division of the teacher's run; `None` where there is none of this data set."""
    if pseudo.split is None:
        return None
    try:
        return Split.load(pseudo.split, catalog)
    except DataError:
        return None
