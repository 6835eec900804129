"""What `--model` means: a fold's folder, a run's folder, a file, the newest run, a name, or a shared model's address.

Named are those that the user added and those that are shipped: `assets/NAME.onnx`, each with its card `NAME.md`.
"""

from pathlib import Path

from keras_birds.errors import ConfigError, ModelError
from keras_birds.models.library import added_models, bundled_models
from keras_birds.models.preset_fetch import fetch_preset, is_preset
from keras_birds.run_layout import (
    CONFIG,
    FULL,
    KERAS,
    METADATA,
    ONNX,
    PRETRAINING,
    RUNS_DIR,
    fold_of,
    numbered_folds,
)

DEFAULTS = ("birdnet", "animals")
"""What predicts where nothing was trained yet: the first that is here."""

_HOW_TO_GET_ONE = (
    "Train one with `keras-birds train --data DIR --fold 0` or `keras-birds demo`, or pass --model"
)
_SUFFIX = {"onnx": ".onnx", "keras": ".keras"}


def resolve_model(
    path: str | Path | None = None, engine: str | None = None, runs_dir: Path = RUNS_DIR
) -> tuple[Path, ...]:
    """Finds the model files that a path stands for, all `.onnx` or all `.keras`: an ensemble's in fold order.

    Args:
        path: a fold's folder, a run's (all its finished folds, else its model of all recordings), an `.onnx` or
            `.keras` file, the name of an added or a shipped model, or a shared model's folder or URL, which is fetched;
            `None` for the newest run below `runs_dir`, or where there is none, begun or trained, the first of
            `DEFAULTS`.
        engine: `"onnx"` or `"keras"`, the files to take from folders; `None` for ONNX.
        runs_dir: where runs are.

    Raises:
        ModelError: if there is no model; it says how to get one. Of a shared one see `fetch_preset`.
        ConfigError: if the engine is unknown, or the file named is none that it reads.
    """
    if engine not in (None, *_SUFFIX):
        raise ConfigError(f"The engine must be onnx or keras. Received: {engine}")
    if path is None:
        return _newest_run(runs_dir, engine or "onnx")
    path = fetch_preset(path) if is_preset(path) else Path(path)
    if not path.exists():
        path = named_models().get(str(path), path)
    if path.is_file():
        suffixes = [_SUFFIX[engine]] if engine else list(_SUFFIX.values())
        if path.suffix.lower() not in suffixes:
            raise ConfigError(
                f"The model must be a file in {' or '.join(suffixes)}, a fold's or a run's folder. Received: {path}"
            )
        return (path,)
    if not path.is_dir():
        names = ", ".join(named_models())
        raise ModelError(
            f"The model must be an existing file or folder, or one of {names}. Received: {path}. {_HOW_TO_GET_ONE}"
        )
    if (path / PRETRAINING).is_file():
        raise ModelError(
            f"{path}: the model must have learnt labels. Received: a pretraining, which a run begins with: keras-birds "
            f"train --data DIR --config recommended --set model.initial={path}"
        )
    engine = engine or "onnx"
    folds = [path] if _is_fold(path) else _folds(path)
    finished = [x for x in folds if _finished(x, engine)]
    if not finished:
        wanted = f"model{_SUFFIX[engine]}" if _is_fold(path) else f"foldN/model{_SUFFIX[engine]}"
        raise ModelError(
            f"{path}: the model must be trained to its end. Received: a folder without {wanted}. "
            + _how_to_go_on(folds, engine)
        )
    return tuple(x / f"model{_SUFFIX[engine]}" for x in finished)


def finished_models(runs_dir: Path = RUNS_DIR) -> list[Path]:
    """The `.onnx` files of all runs below `runs_dir`: of each finished fold, then of all recordings."""
    runs = sorted(x for x in runs_dir.glob("*") if x.is_dir())
    places = [x for run in runs for x in (*numbered_folds(run), run / FULL)]
    return [x / ONNX for x in places if _finished(x, "onnx")]


def _newest_run(runs_dir: Path, engine: str) -> tuple[Path, ...]:
    runs = [x for x in runs_dir.glob("*") if x.is_dir()]
    files = [
        (run, x / f"model{_SUFFIX[engine]}") for run in runs for x in _folds(run) if _finished(x, engine)
    ]
    if files:
        return resolve_model(max(files, key=lambda x: (x[1].stat().st_mtime_ns, x[0].name))[0], engine)
    runs = [x for x in runs if not (x / PRETRAINING).is_file()]
    # A run that was stopped before its first fold has its settings only.
    begun = [x for run in runs for x in _folds(run)] or [x for x in runs if (x / CONFIG).is_file()]
    named = [named_models()[x] for x in DEFAULTS if x in named_models()]
    if not begun and engine == "onnx" and named:
        return resolve_model(named[0], engine)
    received = f"only unfinished runs in {runs_dir}/" if begun else f"no run in {runs_dir}/"
    raise ModelError(
        f"No model: there must be a trained run. Received: {received}. {_how_to_go_on(begun, engine)}"
    )


def _folds(run: Path) -> list[Path]:
    """The run's folds in order; without any, the model of all its recordings."""
    return numbered_folds(run) or [x for x in [run / FULL] if x.is_dir()]


def _is_fold(path: Path) -> bool:
    return fold_of(path.resolve()) is not None or any((path / x).is_file() for x in (ONNX, KERAS))


def _finished(fold: Path, engine: str) -> bool:
    """Training writes model.onnx last; the weights alone, `model.keras`, may be of any epoch."""
    if engine == "onnx":
        return (fold / ONNX).is_file()
    return (fold / KERAS).is_file() and any((fold / x).is_file() for x in (ONNX, METADATA))


def _how_to_go_on(folds: list[Path], engine: str) -> str:
    other = "keras" if engine == "onnx" else "onnx"
    if any(_finished(x, other) for x in folds):
        return f"Pass --engine {other}"
    return "Go on with `keras-birds train --resume`, or pass another --model" if folds else _HOW_TO_GET_ONE


def named_models() -> dict[str, Path]:
    """The folders of added models and the files of shipped ones, by name."""
    return added_models() | bundled_models()


def bundled_name(path: Path) -> str:
    """The name of a shipped model's file; empty for another file."""
    return path.stem if path in bundled_models().values() else ""


def card_of(path: Path) -> Path | None:
    """The card of a shipped model's file: its data, licence, figures and limits; `None` for another file."""
    card = path.with_suffix(".md")
    return card if bundled_name(path) and card.is_file() else None
