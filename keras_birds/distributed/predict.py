"""Spreads recordings over a Ray cluster, in place of `score_recordings`.

This process hands groups of recordings to worker processes, one model each, and takes their scores in the order in
which the recordings were named. It alone writes results, so a worker that dies takes nothing with it but time.
"""

import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

from keras_birds.audio.clips import window_hop_samples
from keras_birds.distributed.cluster import Node, cause_of, nodes
from keras_birds.distributed.groups import MAX_LOSSES, Group, Groups
from keras_birds.distributed.worker import GroupScores, PackedModel, Worker
from keras_birds.errors import ConfigError, KerasBirdsError
from keras_birds.inference.classifier import Classifier
from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.inference.scorer import RecordingScores, ScoreOptions

_CPUS_A_WORKER = 16
_GROUPS_A_WORKER = 2  # one is decoded while the other ends
_GROUPS_AHEAD = 4  # of each worker, begun or waiting for their turn
_LOOK_EVERY_S = 5.0
_TELL_AFTER_S = 20.0
_GIVE_UP_S = 300.0
_RESTART_AFTER_S = 5.0
_MAX_START_FAILURES = 3
_MISSING_MODULE = re.compile(r"No module named '[^']+'")


@dataclass(eq=False)
class _Place:
    """Where a worker process runs, and the process there."""

    node: Node
    cpus: int
    gpus: int
    actor: Any = None
    loading: Any = None
    pid: int = 0
    failures: int = 0
    start_at: float = 0.0
    groups: dict[Any, Group] = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        return self.actor is not None and self.loading is None

    def has_room(self, groups: int) -> bool:
        """Whether it may have another one of so many groups."""
        is_alone = any(x.losses for x in self.groups.values())
        return self.is_ready and not is_alone and len(self.groups) < groups


class ClusterScorer:
    """Worker processes on the nodes of the cluster that this process is connected to.

    ```python
    with connect("auto"), ClusterScorer(classifier) as score:
        for scored in score(classifier, files, options, on_scored):
            results.add(scored)
    ```

    Args:
        classifier: the model; its files travel to the nodes.
        provider: what ONNX Runtime computes on; `None` for CUDA where a node has it.
        cpus: processors of a worker process; `None` for all of a node, up to 16.
        say: gets lines on workers that die and nodes that go.
    """

    def __init__(
        self,
        classifier: Classifier,
        provider: str | None = None,
        cpus: int | None = None,
        say: Callable[[str], None] = lambda _: None,
    ):
        self._classifier, self._provider, self._cpus, self._say = classifier, provider, cpus, say
        self._uses_gpus = (provider or "").lower() != "cpu"
        self._places: list[_Place] = []
        self._known: dict[str, Node] = {}
        self._looked_at = self._worked_at = self._told_at = -math.inf

    def __enter__(self) -> "ClusterScorer":
        """Starts the workers; the first has loaded the model when this returns.

        Raises:
            KerasBirdsError: if no worker can be started.
        """
        import ray

        self._model = ray.put(PackedModel.of(self._classifier, self._provider))
        self._worked_at = self._told_at = time.monotonic()
        try:
            while not any(x.is_ready for x in self._places):
                self._look()
                self._wait(Groups(()))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are ready."""
        return [x.pid for x in self._places if x.is_ready]

    def __call__(
        self,
        classifier: Classifier,
        names: Iterable[str],
        options: ScoreOptions,
        on_scored: Callable[[float], None],
    ) -> Iterator[RecordingScores]:
        """Scores recordings, as `score_recordings` does.

        Args:
            classifier: that of the workers.
            names: paths or URLs; relative ones count from this process's folder.
            options: how they are cut.
            on_scored: told how many seconds of audio were scored since it was last told.

        Yields:
            One for each name, in order.

        Raises:
            ConfigError: if the options can't be used, or nodes don't see the recordings that this machine sees.
            KerasBirdsError: if the model gives no numbers, a package is missing on a node, or no worker is left.
        """
        window_hop_samples(classifier.audio, options.overlap_s)
        groups: Groups[RecordingScores] = Groups(names)
        self._worked_at = self._told_at = time.monotonic()
        for place in self._places:  # what an earlier batch left behind when it was interrupted
            place.groups = {}
        while True:
            self._look()
            self._hand_out(groups, options)
            yield from groups.in_order()
            if groups.is_over:
                return
            for found in self._wait(groups):
                on_scored(sum(x.recording.seconds - x.recording.unscored_s for x in found.recordings))

    def _look(self) -> None:
        """Takes in nodes that came, lets go of those that went, and starts workers where there are none."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at = now
            found = {x.id: x for x in nodes()}
            for node in found.values():
                if node.id not in self._known:
                    self._places += _divide(node, self._cpus, self._uses_gpus)
            self._places = [x for x in self._places if x.node.id in found or x.groups]
            self._known = found
        for place in self._places:
            may_start = place.failures < _MAX_START_FAILURES and now >= place.start_at
            if place.actor is None and may_start and place.node.id in self._known:
                self._start(place)

    def _start(self, place: _Place) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place.actor = (
            ray.remote(Worker)
            .options(
                num_cpus=place.cpus,
                num_gpus=place.gpus,
                max_restarts=0,
                max_concurrency=_GROUPS_A_WORKER,
                scheduling_strategy=NodeAffinitySchedulingStrategy(place.node.id, soft=False),
            )
            .remote(place.cpus)
        )
        place.loading = place.actor.load.remote(self._model)

    def _hand_out(self, groups: Groups[RecordingScores], options: ScoreOptions) -> None:
        limit = _GROUPS_AHEAD * len(self._places)
        while True:
            # What a worker died with needs one that has nothing else to do.
            most = 1 if groups.has_lost else _GROUPS_A_WORKER
            places = [x for x in self._places if x.has_room(most)]
            group = groups.take(limit) if places else None
            if group is None:
                return
            place = min(places, key=lambda x: len(x.groups))
            place.groups[place.actor.score.remote(group, group.places, options)] = group

    def _wait(self, groups: Groups[RecordingScores]) -> list[GroupScores]:
        """Waits until something happens, for a second at most; what was scored."""
        import ray

        refs = {x.loading: x for x in self._places if x.loading is not None}
        refs |= {ref: x for x in self._places for ref in x.groups}
        if not refs:
            time.sleep(0.1)
        scored = []
        for ref in ray.wait(list(refs), num_returns=len(refs), timeout=0)[0] if refs else []:
            scored += self._settle(refs.pop(ref), ref, groups)
        if not scored and refs:
            for ref in ray.wait(list(refs), timeout=1.0)[0]:
                scored += self._settle(refs[ref], ref, groups)
        self._check_progress()
        return scored

    def _settle(self, place: _Place, ref: Any, groups: Groups[RecordingScores]) -> list[GroupScores]:
        """Takes what came of a call."""
        import ray

        if ref != place.loading and ref not in place.groups:  # its worker died meanwhile
            return []
        try:
            answer = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            raise cause_of(error) from None
        except ray.exceptions.RayError as error:
            self._bury(place, groups, error)
            return []
        if ref == place.loading:
            place.loading, place.pid, place.failures = None, answer, 0
            return []
        group = place.groups.pop(ref)
        self._check_shared(answer, group, place.node)
        groups.done(group, answer.recordings, answer.seconds)
        return [answer]

    def _bury(self, place: _Place, groups: Groups[RecordingScores], error: Exception) -> None:
        """A worker died: its groups go to another one."""
        import ray

        if place.loading is not None:
            place.failures += 1
            if _MISSING_MODULE.search(str(error)):
                place.failures = _MAX_START_FAILURES
            if place.failures >= _MAX_START_FAILURES:
                self._say(f"No worker can be started on node {place.node.address}: {_why(error)}")
        else:
            count = sum(len(x.names) for x in place.groups.values())
            what = f"; {count} recording{'s' * (count != 1)} will be scored again" if count else ""
            self._say(f"A worker on node {place.node.address} died ({_why(error)}){what}")
        lost, place.groups = list(place.groups.values()), {}
        ray.kill(place.actor)  # it may be out of reach and not dead
        place.actor = place.loading = None
        place.start_at = time.monotonic() + _RESTART_AFTER_S * place.failures
        self._looked_at = -math.inf
        for group in lost:
            for given_up in groups.lost(group):
                groups.done(given_up, [self._failed(given_up.names[0])])

    def _failed(self, name: str) -> RecordingScores:
        reason = f"{MAX_LOSSES} worker processes died while they read it"
        nothing = np.zeros(0)
        scores = np.zeros((0, len(self._classifier.labels)), np.float32)
        recording = RecordingStatus(name, "corrupt", reason)
        return RecordingScores(recording, nothing, nothing, nothing.astype(np.int16), scores)

    def _check_shared(self, answer: GroupScores, group: Group, node: Node) -> None:
        for found, place in zip(answer.recordings, group.places, strict=True):
            if found.recording.status == "missing" and os.path.isfile(place):  # noqa: PTH113
                raise ConfigError(
                    "Recordings must be where every node sees them under the same name: shared storage or URLs. "
                    f"Received: {place}, which node {node.address} doesn't have"
                )

    def _check_progress(self) -> None:
        """A batch never hangs: without any worker it ends with an error."""
        now = time.monotonic()
        if any(x.is_ready for x in self._places):
            self._worked_at = self._told_at = now
            return
        if self._places and all(x.failures >= _MAX_START_FAILURES for x in self._places):
            raise KerasBirdsError(
                "Workers must start on at least one node of the cluster. Received: none that did. Install "
                "keras-birds of this version on every node; the same command goes on"
            )
        if now - self._worked_at > _GIVE_UP_S:
            cpus = sum(x.cpus for x in self._known.values())
            raise KerasBirdsError(
                f"The cluster must have processors that are free. Received: none of {cpus} for {_GIVE_UP_S:.0f} s. "
                "See `ray status`; the same command goes on"
            )
        if now - self._told_at > _TELL_AFTER_S:
            self._told_at = now
            self._say("Waiting for the cluster's processors; `ray status` tells who holds them")

    def _stop(self) -> None:
        import ray

        for place in self._places:
            if place.actor is not None:
                try:
                    ray.kill(place.actor)
                except Exception:  # the cluster has gone
                    break
        self._places, self._known = [], {}


def _divide(node: Node, cpus: int | None, uses_gpus: bool) -> list[_Place]:
    """A node's workers: one for each GPU, else one for as many processors as serve one process well."""
    if cpus is not None and not (uses_gpus and node.gpus):
        cpus = min(cpus, node.cpus)
        return [_Place(node, cpus, 0) for _ in range(node.cpus // cpus)]
    if uses_gpus and node.gpus:
        count, gpus = min(node.gpus, node.cpus), 1
    else:
        count, gpus = math.ceil(node.cpus / _CPUS_A_WORKER), 0
    return [_Place(node, node.cpus // count + (i < node.cpus % count), gpus) for i in range(count)]


def _why(error: Exception) -> str:
    text = " ".join(str(error).split())
    if missing := _MISSING_MODULE.search(text):
        return f"{missing[0]}; install keras-birds there"
    if "running low on memory" in text or "OutOfMemory" in type(error).__name__:
        return "out of memory"
    return "its node has gone" if "its node has died" in text else "killed or crashed"
