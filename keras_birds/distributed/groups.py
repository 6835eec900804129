"""Cuts a batch into groups of recordings for workers, and puts what comes back in order."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from keras_birds.audio.remote import is_url

Result = TypeVar("Result")

GROUP_S = 4.0
"""How long a group shall keep a worker: what is lost with it, and a thousand times what handing it over takes."""

MAX_LOSSES = 3
"""So many workers may die with a recording."""

_MAX_RECORDINGS = 500


@dataclass(frozen=True)
class Group:
    """Recordings that a worker takes at a time.

    Args:
        first: place of the first one in the batch.
        names: as they were given.
        losses: workers that died with them. Where there were any it is one recording, to be scored without company, so
            that the next death has one cause.
    """

    first: int
    names: tuple[str, ...]
    losses: int = 0

    @property
    def places(self) -> tuple[str, ...]:
        """Where the recordings are, for a worker that runs in another folder: URLs and absolute paths."""
        here = os.getcwd()  # noqa: PTH109 - strings, which a Path would change
        return tuple(x if is_url(x) else os.path.join(here, x) for x in self.names)  # noqa: PTH118


class Groups(Generic[Result]):
    """A batch on its way through the workers.

    Args:
        names: of the recordings, read as they are needed.
    """

    def __init__(self, names: Iterable[str]):
        self._names = iter(names)
        self._count = 0
        self._size = 1
        self._again: list[Group] = []
        self._done: dict[int, tuple[int, Sequence[Result]]] = {}
        self._next = 0
        self._is_read = False

    def take(self, limit: int) -> Group | None:
        """The next group: first what was lost, then what is new.

        Args:
            limit: of recordings between the first that isn't done and the last that is given out; at least one
                group is allowed.

        Returns:
            `None` if there is nothing now.
        """
        if self._again:
            return self._again.pop(0)
        if self._is_read or self._count - self._next >= limit * self._size:
            return None
        names = tuple(islice(self._names, self._size))
        if len(names) < self._size:
            self._is_read = True
        if not names:
            return None
        group = Group(self._count, names)
        self._count += len(names)
        return group

    @property
    def has_lost(self) -> bool:
        """Whether the next group is one that a worker died with."""
        return bool(self._again)

    def done(self, group: Group, results: Sequence[Result], seconds: float | None = None) -> None:
        """Takes a group's results.

        Args:
            group: of the recordings.
            results: one for each.
            seconds: that they took, from which the next groups' size is learned; `None` if nobody scored them.
        """
        self._done[group.first] = len(group.names), results
        if seconds is not None:
            fitting = int(GROUP_S * len(group.names) / max(seconds, 1e-6))
            self._size = max(1, min(fitting, 2 * self._size, _MAX_RECORDINGS))

    def lost(self, group: Group) -> list[Group]:
        """Takes back a group whose worker died.

        Returns:
            Recordings that are given up, a group each; `done` must be told their results.
        """
        parts = [Group(group.first + i, (x,), group.losses + 1) for i, x in enumerate(group.names)]
        given_up = [x for x in parts if x.losses >= MAX_LOSSES]
        self._again += [x for x in parts if x.losses < MAX_LOSSES]
        self._again.sort(key=lambda x: x.first)
        return given_up

    def in_order(self) -> Iterator[Result]:
        """Results whose turn it is."""
        while self._next in self._done:
            count, results = self._done.pop(self._next)
            self._next += count
            yield from results

    @property
    def is_over(self) -> bool:
        """Whether every recording's result has been given out."""
        return self._is_read and not self._again and self._next == self._count
