"""A map over several threads, whose results come in order and no further ahead than they are wanted."""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from itertools import chain
from queue import SimpleQueue
from typing import Generic, TypeVar

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
    """Applies a function to what iterators give.

    Each thread takes the next item of its source itself, one thread of a source at a time, and then computes with it:
    threads that do nothing but decode would drive out of the processors' caches what a model needs there, which costs
    3 %. Threads serve because libsndfile, soxr, NumPy, SciPy and ONNX Runtime all let go of Python's lock.

    Args:
        function: of an item.
        sources: each has the same number of threads, or one more.
        threads: how many; with 1 everything happens in the caller's.
        on_end: called when nobody wants more results: makes sources go on that wait for something.

    Yields:
        Items with their results, in the order in which they were taken; what a source or the function raised is
        raised in its turn.
    """
    if threads == 1:
        yield from ((item, function(item)) for item in chain.from_iterable(sources))
        return
    shared: _Shared[_Item, _Result] = _Shared(function, _AHEAD_A_THREAD * threads)
    locks = [threading.Lock() for _ in sources]
    workers = []
    for k in range(threads):
        task = sources[k % len(sources)], locks[k % len(sources)]
        workers.append(threading.Thread(target=shared.work, args=task, daemon=True, name="keras-birds"))
        workers[-1].start()
    try:
        at_work = threads
        while at_work:
            future = shared.taken.get()
            if future is None:
                at_work -= 1
                continue
            result = future.result()
            shared.may_take.release()
            yield result
    finally:
        shared.is_stopped = True
        on_end()
        shared.may_take.release(threads)
        for worker in workers:
            worker.join(_JOIN_S)


class _Shared(Generic[_Item, _Result]):
    """What the threads of one map share."""

    def __init__(self, function: Callable[[_Item], _Result], ahead: int):
        self.taken: SimpleQueue[Future[tuple[_Item, _Result]] | None] = SimpleQueue()
        """What came of items, in the order in which they were taken; `None` for each thread that ended."""
        self.may_take = threading.Semaphore(ahead)
        self.is_stopped = False
        self._function = function

    def work(self, source: Iterator[_Item], lock: threading.Lock) -> None:
        """Runs in each thread."""
        while (task := self._take(source, lock)) is not None:
            item, result = task
            try:
                result.set_result((item, self._function(item)))
            except BaseException as error:
                result.set_exception(error)
        self.taken.put(None)

    def _take(
        self, source: Iterator[_Item], lock: threading.Lock
    ) -> tuple[_Item, Future[tuple[_Item, _Result]]] | None:
        """The next item, and where what comes of it goes; `None` at the end."""
        self.may_take.acquire()
        with lock:
            if self.is_stopped:
                return None
            future: Future[tuple[_Item, _Result]] = Future()
            try:
                item = next(source)
            except StopIteration:
                return None
            except BaseException as error:
                future.set_exception(error)
                self.taken.put(future)
                return None
            self.taken.put(future)
            return item, future
