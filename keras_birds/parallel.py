"""A map over several threads, whose results come in order and no further ahead than they are wanted."""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from itertools import chain
from queue import SimpleQueue
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_AHEAD_A_THREAD = 2
_JOIN_S = 30.0


def map_in_order(
    function: Callable[[_Item], _Result],
    sources: Sequence[Iterator[_Item]],
    threads: int,
    on_end: Callable[[], object] = lambda: None,
) -> Generator[tuple[_Item, _Result], None, None]:
    """Applies a function to what iterators give, none of it `None`; yields items with results as they were taken.

    Each thread takes the next item of its source itself, one thread of a source at a time, and then computes with it:
    threads that only decode would drive out of the processors' caches what a model needs there (3 %). One is the
    caller's. What a source or the function raises is raised in its turn; `on_end` frees sources that wait at the end.
    """
    if threads < 2:
        yield from ((item, function(item)) for item in chain.from_iterable(sources))
        return
    # What came of items, in the order in which they were taken; None once for each thread, at its end.
    taken: SimpleQueue[Future[tuple[_Item, _Result] | None]] = SimpleQueue()
    may_take = threading.Semaphore(_AHEAD_A_THREAD * threads)
    is_stopped = threading.Event()

    def work(source: Iterator[_Item], lock: threading.Lock) -> None:
        while True:
            future: Future[tuple[_Item, _Result] | None] = Future()
            item = None
            may_take.acquire()
            with lock:
                try:
                    if is_stopped.is_set() or (item := next(source, None)) is None:
                        future.set_result(None)
                except BaseException as error:
                    future.set_exception(error)
                taken.put(future)
            if item is None:
                return
            try:
                future.set_result((item, function(item)))
            except BaseException as error:
                future.set_exception(error)

    tasks = [(x, threading.Lock()) for x in sources]
    workers = []
    for k in range(threads):
        task = tasks[k % len(tasks)]
        workers.append(threading.Thread(target=work, args=task, daemon=True, name="keras-birds"))
        workers[-1].start()
    try:
        at_work = threads
        while at_work:
            result = taken.get().result()
            if result is None:
                at_work -= 1
                continue
            may_take.release()
            yield result
    finally:
        is_stopped.set()
        on_end()
        may_take.release(threads)
        for worker in workers:
            worker.join(_JOIN_S)
