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
    function: Callable[[_Item], _Result], sources: Sequence[Iterator[_Item]], threads: int
) -> Generator[tuple[_Item, _Result], None, None]:
    """Applies a function to what iterators give.

    Each thread takes the next item of its source itself, one thread of a source at a time, and then computes with it:
    threads that do nothing but decode would drive out of the processors' caches what a model needs there, which costs
    3 %. Threads serve because libsndfile, soxr, NumPy, SciPy and ONNX Runtime all let go of Python's lock.

    Args:
        function: of an item.
        sources: each has the same number of threads, or one more.
        threads: how many; with 1 everything happens in the caller's.

    Yields:
        Items with their results, in the order in which they were taken.

    Raises:
        BaseException: what a source or the function raised, in its turn.
    """
    if threads == 1:
        yield from ((item, function(item)) for item in chain.from_iterable(sources))
        return
    taken: SimpleQueue[Future[tuple[_Item, _Result]] | None] = SimpleQueue()
    may_take = threading.Semaphore(_AHEAD_A_THREAD * threads)
    locks = [threading.Lock() for _ in sources]
    stopped = threading.Event()

    def work(number: int) -> None:
        future: Future[tuple[_Item, _Result]]
        while True:
            may_take.acquire()
            with locks[number]:
                if stopped.is_set():
                    break
                future = Future()
                try:
                    item = next(sources[number])
                except StopIteration:
                    break
                except BaseException as error:
                    future.set_exception(error)
                    taken.put(future)
                    break
                taken.put(future)
            try:
                future.set_result((item, function(item)))
            except BaseException as error:
                future.set_exception(error)
        taken.put(None)

    workers = [
        threading.Thread(target=work, args=(k % len(sources),), daemon=True, name="keras-birds")
        for k in range(threads)
    ]
    for worker in workers:
        worker.start()
    try:
        at_work = threads
        while at_work:
            future = taken.get()
            if future is None:
                at_work -= 1
                continue
            result = future.result()
            may_take.release()
            yield result
    finally:
        stopped.set()
        may_take.release(threads)
        for worker in workers:
            worker.join(_JOIN_S)
