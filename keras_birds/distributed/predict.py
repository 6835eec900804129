"""Spreads recordings over a Ray cluster, in place of `score_recordings`.

This process hands out groups of recordings as tasks, and takes their scores in the order in which the recordings were
named. Ray finds processors for them, on nodes that come and go, and starts worker processes, which keep the model. This
process alone writes results: a worker that dies takes nothing with it but time, as its recordings are handed out again.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

import keras_birds
from keras_birds.audio.clips import window_hop_samples
from keras_birds.audio.remote import is_url
from keras_birds.distributed.cluster import Node, cause_of, nodes
from keras_birds.distributed.worker import GroupScores, PackedModel, Scorer, score_group
from keras_birds.errors import ConfigError, KerasBirdsError
from keras_birds.inference.classifier import Classifier
from keras_birds.inference.scorer import (
    DEFAULT_OPTIONS,
    RecordingScores,
    RecordingStatus,
    ScoreOptions,
    WindowScorer,
)

GROUP_S = 8.0
"""How long a group shall keep a worker: what is lost with it, and a hundred times what its beginning and end cost."""

MAX_LOSSES = 3
"""So many workers may die with a recording."""

_CPUS_A_WORKER = 4  # as many threads as one that decodes keeps busy
_GROUPS_AHEAD = 4  # of each worker, begun or waiting for their turn
_MAX_RECORDINGS = 500
_LOOK_EVERY_S = 5.0
_TELL_AFTER_S = 20.0
_GIVE_UP_S = 300.0


@dataclass(eq=False)
class _Group:
    """Recordings that a worker takes at a time: one if a worker died with it, so that the next death has one cause."""

    names: tuple[str, ...]
    losses: int = 0
    scores: Sequence[RecordingScores] | None = None  # until it is done

    @property
    def places(self) -> tuple[str, ...]:
        """Where the recordings are, for a worker that runs in another folder: URLs and absolute paths."""
        here = os.getcwd()  # noqa: PTH109 - strings, which a Path would change
        return tuple(x if is_url(x) else os.path.join(here, x) for x in self.names)  # noqa: PTH118


class ClusterScorer:
    """Scores on the nodes of the cluster that this process is connected to.

    ```python
    with connect("auto"), ClusterScorer(classifier) as score:
        for scored in score(classifier, files, options, on_scored):
            results.add(scored)
    ```

    Args:
        classifier: the model; its files travel to the nodes.
        provider: what ONNX Runtime computes on; `None` for CUDA where a node has it.
        cpus: processors of a worker process; `None` for up to 4.
        say: gets lines on workers that die, and on waiting.
        scorer: as for `PackedModel`.
    """

    def __init__(
        self,
        classifier: Classifier,
        provider: str | None = None,
        cpus: int | None = None,
        say: Callable[[str], None] = lambda _: None,
        scorer: Scorer | None = None,
    ):
        self._classifier, self._provider, self._cpus, self._say = classifier, provider, cpus, say
        self._scorer = scorer
        self._uses_gpus = (provider or "").lower() != "cpu"
        self._resources, self._slots = (1, 0), 1
        self._looked_at = -math.inf

    def __enter__(self) -> "ClusterScorer":
        """Starts a worker, which has loaded the model when this returns; a `KerasBirdsError` if none can be started."""
        import ray

        self._task = ray.remote(max_retries=0)(score_group)
        # In a list: Ray would put what it refers to in its place.
        self._model = [ray.put(PackedModel.of(self._classifier, self._provider, self._scorer))]
        began = self._told_at = self._seen_at = time.monotonic()
        self._look()
        task = self._submit(_Group(()), DEFAULT_OPTIONS)
        while not ray.wait([task], timeout=1.0)[0]:
            self._look()
            self._tell_waiting(began)
        try:
            self._scores_of(task)
        except ray.exceptions.RayError as error:
            raise KerasBirdsError(
                f"Workers must start on the cluster's nodes. Received: one that died ({_why(error)}); install "
                f"keras-birds {keras_birds.__version__} on every node"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._model = []

    def __call__(
        self,
        scorer: WindowScorer,
        names: Iterable[str],
        options: ScoreOptions,
        on_scored: Callable[[float], None],
    ) -> Iterator[RecordingScores]:
        """Scores recordings with the workers' model, as `score_recordings` does: relative names count from here.

        Each recording comes whole.

        Raises:
            ConfigError: if the options can't be used, or nodes don't see the recordings that this machine sees.
            KerasBirdsError: if the model gives no numbers, a package is missing on a node, or no node is left.
        """
        import ray

        window_hop_samples(scorer.audio, options.overlap_s)
        files, size = iter(names), 1
        ahead: list[_Group] = []  # in order, from the first that isn't given out
        running: dict[Any, _Group] = {}
        self._seen_at = self._told_at = time.monotonic()
        try:
            while True:
                while ahead and ahead[0].scores is not None:
                    yield from ahead.pop(0).scores or ()
                while len(ahead) < _GROUPS_AHEAD * self._slots and (taken := tuple(islice(files, size))):
                    ahead.append(_Group(taken))
                    running[self._submit(ahead[-1], options)] = ahead[-1]
                if not ahead:
                    return
                for task in ray.wait(list(running), timeout=1.0)[0]:
                    group = running.pop(task)
                    if found := self._take(task, group):
                        size = _next_size(size, found)
                        on_scored(sum(x.recording.scored_s for x in found.recordings))
                        continue
                    parts = self._split(group)
                    at = ahead.index(group)
                    ahead[at : at + 1] = parts
                    running |= {self._submit(x, options): x for x in parts if x.scores is None}
                self._look()
        finally:
            for task in running:
                with contextlib.suppress(Exception):  # the cluster may have gone
                    ray.cancel(task, force=True)

    def _submit(self, group: _Group, options: ScoreOptions) -> Any:
        cpus, gpus = self._resources
        task = self._task.options(num_cpus=cpus, num_gpus=gpus)
        plan = options.plan and replace(options.plan, names=dict(zip(group.places, group.names, strict=True)))
        options = replace(options, workers=cpus, part_windows=None, plan=plan)
        return task.remote(self._model, group.places, options)

    def _take(self, task: Any, group: _Group) -> GroupScores | None:
        """Takes what came of a group; `None` if its worker died."""
        import ray

        try:
            found = self._scores_of(task)
        except ray.exceptions.RayError as error:
            lost = f"{len(group.names)} recording{'s' * (len(group.names) != 1)}"
            then = "will be scored again" if group.losses < MAX_LOSSES - 1 else "is given up"
            self._say(f"A worker died ({_why(error)}); {lost} {then}")
            return None
        for scores, place in zip(found.recordings, group.places, strict=True):
            if scores.recording.status == "missing" and os.path.isfile(place):  # noqa: PTH113
                raise ConfigError(
                    "Recordings must be where every node sees them under the same name: shared storage or URLs. "
                    f"Received: {place}, which node {found.host} doesn't have"
                )
        named = zip(found.recordings, group.names, strict=True)
        group.scores = [replace(x, recording=replace(x.recording, file=name)) for x, name in named]
        return found

    def _scores_of(self, task: Any) -> GroupScores:
        import ray

        try:
            found: GroupScores = ray.get(task)
        except ray.exceptions.RayTaskError as error:
            if "No module named" in str(error) or "failed to import" in str(error):
                raise ConfigError(
                    f"Every node must have keras-birds {keras_birds.__version__}. Received: {cause_of(error)}"
                ) from None
            raise cause_of(error) from None
        return found

    def _split(self, group: _Group) -> list[_Group]:
        """A lost group's recordings, a group each; those that are given up are done."""
        parts = [_Group((x,), group.losses + 1) for x in group.names]
        for part in parts:
            if part.losses >= MAX_LOSSES:
                reason = f"{MAX_LOSSES} worker processes died while they read it"
                no_s, no_channel = np.zeros(0), np.zeros(0, np.int16)
                no_scores = np.zeros((0, len(self._classifier.labels)), np.float32)
                status = RecordingStatus(part.names[0], "corrupt", reason)
                part.scores = [RecordingScores(status, no_s, no_s, no_channel, no_scores)]
        return parts

    def _look(self) -> None:
        """Adapts to the nodes that are there; a batch never hangs where none comes back for `_GIVE_UP_S`."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        if found := nodes():
            self._seen_at = now
            self._resources, self._slots = divide(found, self._cpus, self._uses_gpus)
        else:
            self._tell_waiting(self._seen_at)

    def _tell_waiting(self, since: float) -> None:
        now = time.monotonic()
        if now - since > _GIVE_UP_S:
            raise KerasBirdsError(
                f"The cluster must have processors that are free. Received: none for {_GIVE_UP_S:.0f} s. See `ray "
                "status`; the same command goes on"
            )
        if now - self._told_at > _TELL_AFTER_S:
            self._told_at = now
            self._say("Waiting for the cluster's processors; `ray status` tells who holds them")


def divide(found: Sequence[Node], cpus: int | None, uses_gpus: bool) -> tuple[tuple[int, int], int]:
    """Processors and GPUs that each worker takes, and how many workers the nodes, at least one, have room for.

    Where the model uses GPUs and there are some: one, with its share of the processors. Else `cpus` processors; with
    `None` up to 4, so that few of a node's are left over.
    """
    if with_gpus := [x for x in found if x.gpus and uses_gpus]:
        each = max(1, min(x.cpus // x.gpus for x in with_gpus))
        return (each, 1), sum(min(x.gpus, x.cpus // each) for x in with_gpus)
    if cpus is None:
        each = min(x.cpus // math.ceil(x.cpus / _CPUS_A_WORKER) for x in found)
    else:
        each = min(cpus, *(x.cpus for x in found))
    return (each, 0), sum(x.cpus // each for x in found)


def _next_size(size: int, found: GroupScores) -> int:
    """Recordings in the groups to come: as many as take `GROUP_S`, at most twice as many as before."""
    fitting = int(GROUP_S * len(found.recordings) / max(found.seconds, 1e-6))
    return max(1, min(fitting, 2 * size, _MAX_RECORDINGS))


def _why(error: Exception) -> str:
    if "OutOfMemory" in type(error).__name__:
        return "out of memory"
    return "its node has gone" if "its node has died" in str(error) else "killed or crashed"
