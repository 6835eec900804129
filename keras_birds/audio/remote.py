"""Recordings on object stores and web servers, through fsspec, which the extra `remote` brings.

Credentials and settings come from where fsspec's packages look for them: `AWS_*` and `~/.aws`,
`GOOGLE_APPLICATION_CREDENTIALS`, `FSSPEC_S3_ANON=true` and the like
(https://filesystem-spec.readthedocs.io/en/latest/features.html#configuration).
"""

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from keras_birds.audio.listing import Kind, OnProblem, Tree, has_magic
from keras_birds.errors import AudioError, ConfigError, DataError, KerasBirdsError, detail_of
from keras_birds.packages import not_installed

# One request brings so much: half a minute of 32 kHz 16-bit sound, a tenth of a second of a fast line.
_BLOCK_BYTES = 1 << 21
# The next block is fetched while one is decoded.
_BLOCKS = 4
_TIMEOUT_S = 30.0
# Two letters at least, so that C:\ is none; `::` chains file systems, as in `zip://a.wav::s3://bucket/b.zip`.
_URL = re.compile(r"((?:[a-z][a-z0-9+.-]+::)*([a-z][a-z0-9+.-]+)://)(.*?)(::.*)?", re.IGNORECASE | re.DOTALL)
_WEB = frozenset({"http", "https"})
# Of the extra `remote`.
_EXTRA = frozenset({"fsspec", "aiohttp", "huggingface_hub", "s3fs", "gcsfs"})
_GONE = frozenset({404, 410})
# As the file systems call them: local, S3, Azure, web servers, Google, memory.
_MTIME_KEYS = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "created")

# They log tracebacks of failures that are told here in a line, and without any handler Python prints them.
for _name in ("fsspec", "s3fs", "gcsfs"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


def is_url(name: str | Path) -> bool:
    """Whether a recording's name is a URL, for instance `s3://bucket/a.wav`, and not a local path."""
    return isinstance(name, str) and _URL.fullmatch(name) is not None


def url_path(url: str) -> str:
    """The path in a URL; of a web server's without query and escapes."""
    _, scheme, path, _ = _split(url)
    return unquote(urlsplit(f"{scheme}://{path}").path) if scheme.lower() in _WEB else path


def path_of(name: str) -> PurePath:
    """What a recording's name, a path or a URL, tells of folders and file."""
    return PurePath(url_path(name) if is_url(name) else name)


def _split(url: str) -> tuple[str, str, str, str]:
    """What stands before the path, of it the scheme, the path, and what follows it."""
    prefix, scheme, path, tail = cast(re.Match[str], _URL.fullmatch(url)).groups(default="")
    return prefix, scheme, path, tail


def open_url(url: str) -> BinaryIO:
    """Opens a file for reading in blocks of 2 MiB as they are needed; it is never held as a whole.

    The file can seek. Should the connection break later, reading raises whatever fsspec does.

    Raises:
        AudioError: `missing`; `empty`; `unreadable` where it is forbidden, can't be reached or has no random access.
        ConfigError: if a package that the URL needs isn't installed.
    """
    try:
        files, path = file_system(url)
        file = files.open(
            path, "rb", block_size=_BLOCK_BYTES, cache_type="background", cache_options={"maxblocks": _BLOCKS}
        )
        if not hasattr(file, "fs"):  # an archive closes with the last reference to its file system
            file.fs = files
        # A web server without ranges, a folder and an empty file all open as something that has no length.
        with suppress(ValueError):
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(0)
                return cast(BinaryIO, file)
        file.close()
        info = files.info(path)
    except KerasBirdsError:
        raise
    except Exception as error:  # each file system has its own
        raise audio_error(url, error) from None
    if info["type"] == "directory":
        raise AudioError(url, "is a folder", "unreadable")
    if info["size"] == 0:
        raise AudioError(url, "is empty (0 bytes)", "empty")
    raise AudioError(url, "its server has no random access: download it", "unreadable")


def file_fingerprint(name: str | Path) -> tuple[int, int]:
    """What tells whether a file has changed: size in bytes and time of modification in ns since 1970, UTC, else -1.

    Raises a `ConfigError` if a package that the URL needs isn't installed.
    """
    if not is_url(name):
        try:
            status = os.stat(name)  # noqa: PTH116 - a name may hold what Path refuses or changes
        except (OSError, ValueError):
            return -1, -1
        return status.st_size, status.st_mtime_ns
    try:
        files, path = file_system(str(name))
        info = files.info(path)
    except ConfigError:
        raise
    except Exception:  # each file system has its own
        return -1, -1
    size = info.get("size")
    return -1 if size is None else int(size), _mtime_ns(info)


def list_url(url: str, on_problem: OnProblem) -> Iterator[str]:
    """The recordings that a URL names: itself, the audio files of a folder that ends in `/`, or a glob's.

    A file of exactly the glob's name wins. `on_problem` is as in `find_inputs`.

    Raises:
        DataError: if it is a folder or a glob on a web server, which have no listing, or of an unknown file system.
        ConfigError: if a package that the URL needs isn't installed.
    """
    prefix, scheme, path, tail = _split(url)
    is_listed = not path or path.endswith("/") or has_magic(path)
    if scheme.lower() in _WEB:
        # A question mark begins a query, to which any file may be the answer.
        if "?" not in path and ("/" not in path or path.endswith("/") or "*" in path):
            raise DataError(f"web servers don't list files: URLs must name one each. Received: {url!r}")
        is_listed = False
    try:
        _check_packages(url)
        if not is_listed:
            yield url
            return
        files, inner = file_system(url)
    except KerasBirdsError:
        raise
    except Exception as error:  # each file system has its own
        raise DataError(f"{url!r} can't be opened. Received: {_reason(error)}") from None
    if has_magic(path) and files.isfile(inner):
        yield url
        return

    def entries(folder: str) -> list[tuple[str, Kind]]:
        try:
            # Or every listing would be kept: a kilobyte a file.
            files.invalidate_cache()
            own = files._strip_protocol(f"{scheme}://{folder}").rstrip("/")
            found = [(x["name"].rstrip("/"), x["type"]) for x in files.ls(own, detail=True)]
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, error.strerror or os.strerror(errno.ENOENT)) from None
        except Exception as error:  # each file system has its own
            raise OSError(_reason(error)) from None
        # Stores without folders list an empty object in a folder's place.
        inside = [(x.rpartition("/")[2], kind) for x, kind in found if x.strip("/") != own.strip("/")]
        return [(x, "folder" if kind == "directory" else "file") for x, kind in inside]

    tree = Tree(entries, lambda folder, reason: on_problem(prefix + folder + tail, reason), "/")
    start = "/" if path.startswith("/") else ""
    parts = [x for x in path.split("/") if x] + ["**"] * path.endswith("/")
    for found in tree.expand(start, parts) if has_magic(path) else tree.walk(path):
        yield prefix + found + tail


def _check_packages(url: str) -> None:
    """Raises ConfigError if a package is missing, ValueError if fsspec doesn't know the file system."""
    try:
        import fsspec

        for part in url.split("::"):
            if "://" in part:
                fsspec.get_filesystem_class(part.partition("://")[0])
    except ImportError as error:
        module = getattr(error if error.name else error.__cause__, "name", None)
        if module in _EXTRA:
            raise not_installed(repr(url), "remote", [module]) from None
        raise ConfigError(
            f"{url!r} needs a package of its file system. Received: not installed here ({_reason(error)}). Install it "
            "with pip"
        ) from None


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path there.

    Raises:
        ConfigError: if a package that the URL needs isn't installed.
        Exception: of fsspec's packages, which `audio_error` puts into words.
    """
    _check_packages(url)
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    for scheme in {x.partition("://")[0] for x in url.split("::")} & _WEB:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT_S, sock_read=_TIMEOUT_S)
        options[scheme] = {"client_kwargs": {"timeout": timeout}}
    files, path = url_to_fs(url, **options)
    return files, path


def audio_error(url: str, error: Exception) -> AudioError:
    """What a file system's error means: `missing` or `unreadable`, and why."""
    # fsspec calls all that goes wrong on a web server a file not found, and keeps what it was as the cause.
    cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
    code = getattr(cause, "status", None)
    if code in _GONE or (isinstance(cause, FileNotFoundError) and code is None):
        return AudioError(url, "no such file", "missing")
    if isinstance(cause, IsADirectoryError):
        return AudioError(url, "is a folder", "unreadable")
    if isinstance(code, int):
        reason = f"its server answers {code} {getattr(cause, 'message', '')}".rstrip()
        return AudioError(url, reason, "unreadable")
    return AudioError(url, f"can't be opened ({_reason(cause)})", "unreadable")


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or detail_of(error)


def _mtime_ns(info: dict[str, Any]) -> int:
    value = next((info[x] for x in _MTIME_KEYS if info.get(x) is not None), None)
    if isinstance(value, str):
        try:
            value = parsedate_to_datetime(value) if "," in value else datetime.fromisoformat(value)
        except ValueError:
            return -1
    if isinstance(value, datetime):
        value = value.timestamp()
    return round(value * 1e9) if isinstance(value, int | float) else -1
