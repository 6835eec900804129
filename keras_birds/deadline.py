"""A call that may take only so long."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

_Result = TypeVar("_Result")

REACH_S = 20.0
"""Longest wait for a host's first small file: behind a firewall that drops packets some clients wait for minutes."""


def within(seconds: float, call: Callable[[], _Result]) -> _Result:
    """The call's result, or TimeoutError; a call that hangs is left behind in a daemon thread."""
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    if not wait([future], seconds).done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return future.result()
