"""Trains the folds of a run on the nodes of a Ray cluster, a task each, on storage that all nodes see.

This process makes the run directory with settings, split and manifest; a task writes in its fold's folder only. Ray
starts a task again whose process or node died, and it goes on after its last whole epoch.
"""

import contextlib
import math
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_birds.config import Config
from keras_birds.distributed.cluster import Node, cause_of, connect, nodes
from keras_birds.errors import ConfigError, KerasBirdsError, TrainingError
from keras_birds.progress import Reporter
from keras_birds.run_layout import Fold

if TYPE_CHECKING:
    from keras_birds.training.run import Pretrained
    from keras_birds.training.train import FoldResult, RunResult

MAX_RETRIES = 10
"""So often a fold's task is started again after its process died."""

_TELL_AFTER_S = 30.0


def train_on_cluster(
    address: str,
    config: Config,
    data: str | Path,
    fold: int | str | Sequence[int] = "all",
    out: str | Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> "RunResult":
    """Trains as `training.train.train` does, with the same arguments, the folds side by side.

    Args:
        address: of the cluster, as for `connect`.
        config, fold, resume, reporter: as for `train`.
        data, out: of the data set and the run, on storage that every node sees by these names; relative ones count from
            this process's folder, which the nodes must see as well.

    Raises:
        KerasBirdsError: if the cluster can't be reached, a node doesn't see the run, a fold's process died too often,
            or as `train`.
    """
    from keras_birds.training.run import prepare_run
    from keras_birds.training.train import RunResult

    reporter = reporter or Reporter()
    with connect(address):
        run = prepare_run(config, data, fold, out, resume, reporter)
        cpus, gpus = fold_resources(nodes())
        each = f"{cpus} processor{'s' * (cpus != 1)}" + (" and a GPU" if gpus else "")
        reporter.log(f"each fold takes {each} of a node")
        begin = run.pretrained, run.unlabelled
        work = (Path.cwd(), config, data, run.out, begin, os.environ["KERAS_BACKEND"])
        results = _run_tasks(run.folds, (cpus, gpus), work, reporter)
    return RunResult(run.out, tuple(results), run.left_out)


def fold_resources(found: Sequence[Node]) -> tuple[int, int]:
    """Processors and GPUs that each fold takes; a `KerasBirdsError` if no node has processors.

    Where there are GPUs, one, with its share of the node's processors. Else all processors of a node, so that no two
    folds share one: of the smallest node that has more than half of the largest one's.
    """
    if not found:
        raise KerasBirdsError("The cluster must have nodes with processors. Received: none; see `ray status`")
    if with_gpus := [x for x in found if x.gpus]:
        return max(1, min(x.cpus // x.gpus for x in with_gpus)), 1
    largest = max(x.cpus for x in found)
    return min(x.cpus for x in found if 2 * x.cpus > largest), 0


def _run_tasks(
    folds: Sequence[Fold], resources: tuple[int, int], work: tuple[Any, ...], reporter: Reporter
) -> "list[FoldResult]":
    import ray
    from ray.util.queue import Queue

    lines = Queue(actor_options={"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1})
    cpus, gpus = resources
    # A process of its own for each fold: what one leaves in memory doesn't reach the next.
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=MAX_RETRIES, max_calls=1)(_train_fold)
    refs = {task.remote(k, lines, *work): k for k in folds}
    found: dict[Fold, FoldResult] = {}
    waiting, tell_at = list(refs), time.monotonic() + _TELL_AFTER_S
    try:
        while waiting:
            done, waiting = ray.wait(waiting, timeout=1.0)
            while not lines.empty():
                reporter.log(lines.get())
                tell_at = math.inf
            for ref in done:
                try:
                    found[refs[ref]] = ray.get(ref)
                except ray.exceptions.RayTaskError as error:
                    raise cause_of(error) from None
                except ray.exceptions.RayError:
                    raise TrainingError(
                        f"fold {refs[ref]}: its process must live until it is trained. Received: {MAX_RETRIES + 1} "
                        "that died, perhaps for want of memory; the same command with --resume goes on"
                    ) from None
            if time.monotonic() > tell_at:
                tell_at += _TELL_AFTER_S
                reporter.log("waiting for the cluster's processors; `ray status` tells who holds them")
    finally:
        for ref in waiting:
            ray.cancel(ref, force=True)
    return [found[k] for k in folds]


def _train_fold(
    fold: Fold,
    lines: Any,
    folder: Path,
    config: Config,
    data: str | Path,
    out: Path,
    begin: "tuple[Pretrained | None, tuple[str, ...]]",
    backend: str,
) -> "FoldResult":
    """Runs in a process of the cluster; `lines` is the queue of what it says, names of files count from `folder`."""
    os.environ["KERAS_BACKEND"] = backend
    with contextlib.suppress(OSError):
        os.chdir(folder)
    for path in (folder / data, folder / out / "config.toml"):
        if not path.exists():
            raise ConfigError(
                "The data set and the run must be on storage that every node sees under the same name. Received: "
                f"{path}, which {socket.gethostname()} doesn't have"
            )
    from keras_birds.training.run import open_run
    from keras_birds.training.train import train_fold

    class Remote(Reporter):
        def log(self, line: str) -> None:
            lines.put(line if line.startswith("fold ") else f"fold {fold}: {line}")

    reporter = Remote()
    reporter.log(f"fold {fold}: on {socket.gethostname()}, process {os.getpid()}")
    run = open_run(out, config, data, *begin)
    return train_fold(run, fold, reporter)
