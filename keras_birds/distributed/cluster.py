"""Connects to a Ray cluster. What can't be reached is told in one line, within half a minute."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from keras_birds.errors import ConfigError, KerasBirdsError
from keras_birds.packages import require_packages
from keras_birds.suppress_output import suppress_output
from keras_birds.threads import available_cpus

_CONNECT_S = 30.0
_STORE_BYTES = 1 << 29  # a model and some groups' results; Ray would take a third of the memory


@dataclass(frozen=True)
class Node:
    """A machine of the cluster that is alive, and how many processors and GPUs it offers."""

    cpus: int
    gpus: int = 0


@contextmanager
def connect(address: str) -> Iterator[None]:
    """Connects this process to a cluster until the block ends; a connection that exists is used and kept.

    Args:
        address: `"local"` for this machine alone, `"auto"` for the cluster that this machine belongs to, `"HOST:PORT"`
            for the cluster with this head, or `"ray://HOST:PORT"` from a machine outside of it.

    Raises:
        ConfigError: if Ray isn't installed, or the address is none.
        KerasBirdsError: if nothing answers there.
    """
    ray = check_address(address)
    if ray.is_initialized():
        yield
        return
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        with suppress_output():
            if address == "local":
                # In this thread: Ray's processes end with the thread that started them.
                own = {"num_cpus": available_cpus(), "object_store_memory": _STORE_BYTES}
                ray.init("local", include_dashboard=False, **own, **settings)
            else:
                if address != "auto":  # Ray itself would try for minutes to connect where nothing listens
                    host, _, port = address.removeprefix("ray://").rpartition(":")
                    socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
                _within(_CONNECT_S, lambda: ray.init(address, **settings))
    except Exception as error:  # OSError, RuntimeError, ConnectionError, ValueError, or those of gRPC
        token = "" if address in ("auto", "local") else "; RAY_AUTH_MODE=token may be missing"
        raise KerasBirdsError(
            f"--ray must name a cluster that runs and answers. Received: {address} ({one_line(error).rstrip('.')}"
            f"{token}). Start one with `ray start --head`, pass HOST:6379 inside it and ray://HOST:10001 outside of "
            "it, or pass --ray local"
        ) from None
    try:
        yield
    finally:
        with suppress_output():
            ray.shutdown()


def check_address(address: str) -> Any:
    """The package `ray`; a `ConfigError` if it isn't installed, or the address is none."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    is_host = bool(colon and host and port.isdecimal() and "/" not in host)
    if address not in ("auto", "local") and not is_host:
        raise ConfigError(f"--ray must be auto, local, HOST:PORT or ray://HOST:PORT. Received: {address}")
    # Read as Ray is imported: it counts nobody's use of this program, leaves the GPUs' variables alone, and doesn't
    # print on stdout that a worker died, which is told on stderr.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    require_packages(f"--ray {address}", "ray", ["ray"])
    import ray

    return ray


def nodes() -> list[Node]:
    """The cluster's nodes that are alive and have processors."""
    import ray

    found = [x["Resources"] for x in ray.nodes() if x["Alive"]]
    return [Node(int(x["CPU"]), int(x.get("GPU", 0))) for x in found if x.get("CPU", 0) >= 1]


def cause_of(error: BaseException) -> KerasBirdsError:
    """What a task raised, as this process shall raise it: one line."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, KerasBirdsError):
        return cause
    return KerasBirdsError(f"A worker of the cluster failed. Received: {one_line(cause)}")


def one_line(error: BaseException) -> str:
    """An error's class and text, cut after 300 characters."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else text[:299] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _within(seconds: float, call: Callable[[], Any]) -> None:
    """Runs a call that may hang; it is left behind when the time is over."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True, name="keras-birds-connect")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    if raised:
        raise raised[0]
