"""Connects to a Ray cluster. What can't be reached is told in one line, within half a minute."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from keras_birds.errors import ConfigError, KerasBirdsError
from keras_birds.suppress_output import suppress_output
from keras_birds.threads import available_cpus

_PROBE_S = 10.0
_CONNECT_S = 30.0
_STORE_BYTES = 1 << 29  # a model and some groups' results; Ray would take a third of the memory
# How HTTP/2, which Ray speaks, begins: the client's greeting with empty settings; then the other side's settings.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4


@dataclass(frozen=True)
class Node:
    """A machine of the cluster that is alive and has processors.

    Args:
        id: Ray's name of it.
        address: its IP address.
        cpus: processors that it offers.
        gpus: GPUs that it offers.
    """

    id: str
    address: str
    cpus: int
    gpus: int


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
    if address == "local":
        # In this thread: Ray's processes end with the thread that started them.
        own = {"num_cpus": available_cpus(), "include_dashboard": False, "object_store_memory": _STORE_BYTES}
        _init(address, lambda: ray.init("local", **own, **settings))
    else:
        _probe(address)
        _init(address, lambda: _within(_CONNECT_S, lambda: ray.init(address, **settings)))
    _keep_off_stdout(ray)
    try:
        yield
    finally:
        with suppress_output():
            ray.shutdown()


def check_address(address: str) -> Any:
    """Checks what an address looks like, and that Ray is installed.

    Returns:
        The package `ray`.

    Raises:
        ConfigError: if either isn't so.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    is_host = bool(colon and host and port.isdecimal() and "/" not in host)
    if address not in ("auto", "local") and not is_host:
        raise ConfigError(f"--ray must be auto, local, HOST:PORT or ray://HOST:PORT. Received: {address}")
    # Read as Ray is imported: it counts nobody's use of this program, and leaves the GPUs' variables alone.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            f"--ray needs Ray, which isn't installed here. Received: --ray {address} ({error}). "
            "Install it: pip install 'keras-birds[ray]'"
        ) from None
    return ray


def nodes() -> list[Node]:
    """The cluster's nodes that are alive and have processors."""
    import ray

    found = []
    for node in ray.nodes():
        resources = node["Resources"]
        cpus = int(resources.get("CPU", 0))
        if node["Alive"] and cpus:
            found.append(Node(node["NodeID"], node["NodeManagerAddress"], cpus, int(resources.get("GPU", 0))))
    return found


def cause_of(error: BaseException) -> KerasBirdsError:
    """What a task raised, as this process shall raise it: one line."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, KerasBirdsError):
        return cause
    return KerasBirdsError(f"A worker of the cluster failed. Received: {_one_line(cause)}")


def _init(address: str, init: Callable[[], Any]) -> None:
    try:
        with suppress_output():
            init()
    except Exception as error:  # RuntimeError, ConnectionError, ValueError, or those of gRPC
        token = "" if address in ("auto", "local") else "; RAY_AUTH_MODE=token may be missing"
        raise _out_of_reach(address, _one_line(error).rstrip(".") + token) from None


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


def _probe(address: str) -> None:
    """Asks for an answer in HTTP/2: Ray itself would try to connect for minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return
            connection.sendall(_GREETING)
            answer = connection.recv(4)
        reason = "" if len(answer) == 4 and answer[3] == _SETTINGS else "what answers isn't Ray"
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    if reason:
        raise _out_of_reach(address, reason)


def _out_of_reach(address: str, reason: str) -> KerasBirdsError:
    return KerasBirdsError(
        f"--ray must name a cluster that runs and answers. Received: {address} ({reason}). Start one with `ray start "
        "--head`, pass HOST:6379 inside it and ray://HOST:10001 outside of it, or pass --ray local"
    )


def _keep_off_stdout(ray: Any) -> None:
    """Ray prints on stdout, whatever its settings, that a worker died: it is told on stderr, shorter, and once."""
    worker = ray._private.worker
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else text[:299] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
