"""Shared models by their address: fetched, verified, kept in the user's cache.

A preset is a folder, here or behind any URL of fsspec:

preset.json        format version; of each other file size and SHA-256; its own SHA-256 is the preset's
model.onnx         what computes, with labels and settings inside
model.json         the readable copy of these
config.json, metadata.json, model.weights.h5      the members of `model.keras`, where there is a Keras model
README.md          the card, which people edit: it is neither listed nor fetched

An ensemble has `fold0/`, `fold1/`, ... of the same. In the cache the members are one `model.keras` again, so that a
preset is like a fold's folder, an ensemble like a run's.
"""

import hashlib
import json
import logging
import re
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import platformdirs

from keras_birds.atomic import atomic_path
from keras_birds.audio.remote import audio_error, file_system, is_url
from keras_birds.deadline import REACH_S, within
from keras_birds.errors import ConfigError, KerasBirdsError, ModelError
from keras_birds.models.drafts import drafted
from keras_birds.models.library import new_model
from keras_birds.models.metadata import ModelMetadata
from keras_birds.models.preset_checks import check_keras_config, check_keras_weights, check_onnx
from keras_birds.run_layout import KERAS, METADATA, ONNX

PRESET, FORMAT_VERSION = "preset.json", 1
KERAS_MEMBERS = ("metadata.json", "config.json", "model.weights.h5")

_NEEDED = {ONNX, METADATA}
_PLACE = re.compile(r"(fold\d{1,3}/)?([^/]+)", re.ASCII)
_PIN = re.compile(r"(.+)@sha256:(.*)", re.DOTALL)
_HEX = re.compile(r"[0-9a-f]{64}")
_SOURCE = "source.txt"
_MAX_BYTES, _MAX_JSON_BYTES, _PART_BYTES = 4 << 30, 1 << 25, 1 << 20
_LOCK = threading.Lock()
_log = logging.getLogger("keras_birds")


class _File(NamedTuple):
    size: int
    sha256: str


def is_preset(name: str | Path) -> bool:
    """Whether it is a URL, a pinned address, or a folder with a `preset.json`."""
    text = str(name)
    return is_url(text) or _PIN.fullmatch(text) is not None or (Path(name) / PRESET).is_file()


def cache() -> Path:
    """The folder of fetched models, each in one of its SHA-256; it may be removed at any time."""
    return platformdirs.user_cache_path("keras-birds", appauthor=False) / "presets"


def fetch_preset(address: str | Path, say: Callable[[str], None] = lambda _: None) -> Path:
    """The folder in the cache that holds a shared model, after it was fetched and verified if it wasn't there.

    Args:
        address: a folder or a URL; with `@sha256:HEX` it is that very model or an error, and where it was fetched
            before, nothing is asked. Without, the address is asked each time; where it can't be reached, what was
            fetched last is used, and the log says so.
        say: gets a line before what a URL holds is fetched.

    Raises:
        ConfigError: if the pin is none, or a package that the URL needs isn't installed.
        ModelError: if there is no preset, it can't be reached, or it isn't what it says, or what was pinned.
    """
    url, pin = _split_pin(str(address))
    if pin and (cache() / pin).is_dir():
        return cache() / pin
    last = cache() / f"{hashlib.sha256(url.encode()).hexdigest()}.last"
    try:
        opened, text = within(REACH_S, lambda: _open_preset(url))
    except KerasBirdsError:
        raise
    except Exception as error:  # each file system has its own
        if not pin and (folder := _last_fetched(last, url, error)):
            return folder
        raise ModelError(
            f"{url}: a shared model must have a {PRESET} that can be read. Received: {_why(url, error)}. Check the "
            "address; `keras-birds models share` writes such folders"
        ) from None
    sha256 = hashlib.sha256(text).hexdigest()
    if pin and pin != sha256:
        raise ModelError(
            f"{url}: must be the model that was pinned, sha256:{pin}. Received: sha256:{sha256}. It was changed; take "
            "the new one by its own pin"
        )
    folder, files = cache() / sha256, _parse(text, url)
    with _LOCK:
        if not folder.is_dir():
            if is_url(url):
                say(f"Fetching {url}: {sum(x.size for x in files.values()) / 1e6:.1f} MB, once")
            try:
                _fetch(url, opened, text, files, folder)
            except KerasBirdsError as error:
                if not folder.is_dir():  # or another process was sooner
                    raise type(error)(str(error).replace(str(folder), url)) from None
    if is_url(url):
        with atomic_path(last) as temporary:
            temporary.write_text(sha256, encoding="ascii")
    return folder


def add_preset(address: str, name: str, say: Callable[[str], None] = lambda _: None) -> Path:
    """Copies a shared model to the user's folder of models, and returns its place there.

    Raises:
        ConfigError: if the name can't be used or is taken; else the errors of `fetch_preset`.
        KerasBirdsError: if it can't be written.
    """
    fetched = fetch_preset(address, say)
    with new_model(name) as folder:
        shutil.copytree(fetched, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(PRESET, _SOURCE))
    return folder.with_name(name)


def preset_of(path: Path) -> str:
    """The pinned address that a model's file in the cache was fetched from; empty for another file."""
    folder = path.parent if path.parent.parent == cache() else path.parent.parent
    if folder.parent != cache() or not (folder / _SOURCE).is_file():
        return ""
    return f"{(folder / _SOURCE).read_text(encoding='utf-8')}@sha256:{folder.name}"


def opener(url: str) -> Callable[[str], BinaryIO]:
    """What opens a preset's files by their names, in a folder or behind a URL, to be read once from their beginning."""
    if not is_url(url):
        folder = Path(url)
        return lambda name: (folder / name).open("rb")
    files, path = file_system(url)
    files.invalidate_cache()
    protocols = {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)
    # These read in one piece what has no random access, and others in blocks.
    options: dict[str, Any] = {"block_size": 0} if protocols & {"http", "https", "hf"} else {}
    return lambda name: files.open(joined(path, name), "rb", **options)


def joined(path: str, name: str) -> str:
    """A name below a path of fsspec's."""
    return f"{path.rstrip('/')}/{name}" if path else name


def _split_pin(address: str) -> tuple[str, str]:
    found = _PIN.fullmatch(address)
    if found is None:
        return address, ""
    if not _HEX.fullmatch(found[2]):
        raise ConfigError(
            f"A model's pin must be @sha256: and 64 digits of 0-9a-f. Received: {address}. `keras-birds models share` "
            "prints it"
        )
    return found[1], found[2]


def _why(url: str, error: Exception) -> str:
    return re.sub(r"^can't be opened \((.*)\)$", r"\1", audio_error(url, error).reason)


def _last_fetched(last: Path, url: str, error: Exception) -> Path | None:
    """What was fetched last, where the address can't be reached; `None` where it says that there is nothing."""
    if audio_error(url, error).status == "missing" or not last.is_file():
        return None
    folder = cache() / last.read_text(encoding="ascii")
    if not folder.is_dir():
        return None
    day = date.fromtimestamp(last.stat().st_mtime)
    _log.warning(
        "%s can't be reached (%s): the model is the one that was there on %s, sha256:%s",
        *(url, _why(url, error), day, folder.name),
    )
    return folder


def _open_preset(url: str) -> tuple[Callable[[str], BinaryIO], bytes]:
    opened = opener(url)
    with closing(opened(PRESET)) as file:
        text = file.read(_MAX_JSON_BYTES + 1)
    return opened, text


def _parse(text: bytes, url: str) -> dict[str, _File]:
    """The files that a `preset.json` lists, by their names; a `ModelError` if anything of it isn't as it must be."""
    rule = f"{url}: {PRESET} must list a model's files, with size and SHA-256"
    try:
        if len(text) > _MAX_JSON_BYTES:
            raise ValueError(f"more than {_MAX_JSON_BYTES:,} bytes")
        data = json.loads(text)
        if data["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {data['format_version']!r}; update keras-birds")
        files = {str(name): _File(int(x["size"]), str(x["sha256"])) for name, x in data["files"].items()}
        places: dict[str, set[str]] = {}
        for name, file in files.items():
            found = _PLACE.fullmatch(name)
            if found is None or found[2] not in (_NEEDED | {*KERAS_MEMBERS}):
                raise ValueError(f"{name[:80]!r}, which is no file of a model")
            most = _MAX_JSON_BYTES if name.endswith(".json") else _MAX_BYTES
            if not 0 <= file.size <= most or not _HEX.fullmatch(file.sha256):
                raise ValueError(f"{name} of {file.size} bytes with SHA-256 {file.sha256[:80]!r}")
            places.setdefault(found[1] or "", set()).add(found[2])
        if len({frozenset(x) for x in places.values()}) != 1 or ("" in places and len(places) > 1):
            raise ValueError(
                f"{', '.join(files) or 'no file'}: models of an ensemble have the same files each"
            )
        (names,) = {frozenset(x) for x in places.values()}
        if names not in (_NEEDED, _NEEDED | {*KERAS_MEMBERS}):
            raise ValueError(f"only {', '.join(sorted(names))}")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        detail = (
            f"nothing under {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        )
        raise ModelError(f"{rule}. Received: {detail}") from None
    return files


def _fetch(
    url: str, opened: Callable[[str], BinaryIO], text: bytes, files: dict[str, _File], folder: Path
) -> None:
    total = sum(x.size for x in files.values())
    with drafted(folder, "Free some space") as draft:
        most = min(_MAX_BYTES, shutil.disk_usage(draft).free)
        if total > most:
            raise ModelError(f"{url}: a shared model must fit in {most:,} bytes. Received: {total:,} bytes")
        for name, file in files.items():
            (draft / name).parent.mkdir(exist_ok=True)
            _fetch_file(f"{url.rstrip('/')}/{name}", partial(opened, name), file, draft / name)
        for place in sorted({(draft / x).parent for x in files}):
            _check_and_pack(place)
        (draft / PRESET).write_bytes(text)
        source = url if is_url(url) else str(Path(url).resolve())
        (draft / _SOURCE).write_text(source, encoding="utf-8")


def _fetch_file(url: str, opened: Callable[[], BinaryIO], wanted: _File, to: Path) -> None:
    digest, size = hashlib.sha256(), 0
    with to.open("wb") as file:
        for part in _parts(url, opened, wanted.size + 1):
            size += len(part)
            digest.update(part)
            file.write(part)
    if size != wanted.size or digest.hexdigest() != wanted.sha256:
        received = "more" if size > wanted.size else f"{size:,} bytes, sha256:{digest.hexdigest()}"
        raise ModelError(
            f"{url}: must be the file that {PRESET} lists, {wanted.size:,} bytes, sha256:{wanted.sha256}. Received: "
            f"{received}. Try again; if it stays so, the model was changed or is only half uploaded"
        )


def _parts(url: str, opened: Callable[[], BinaryIO], most: int) -> Iterator[bytes]:
    """What a file holds, of it at most so many bytes."""
    try:
        with closing(opened()) as source:
            while most and (part := source.read(min(_PART_BYTES, most))):
                most -= len(part)
                yield part
    except Exception as error:  # each file system has its own
        raise ModelError(
            f"{url}: must be readable to its end. Received: {_why(url, error)}. Try again"
        ) from None


def _check_and_pack(folder: Path) -> None:
    """Checks a model's fetched files, and puts the members of `model.keras` into one."""
    check_onnx(folder / ONNX)
    ModelMetadata.read_json(folder / METADATA)
    members = [folder / x for x in KERAS_MEMBERS]
    if not members[0].is_file():
        return
    check_keras_config(folder / "config.json")
    check_keras_weights(folder / "model.weights.h5")
    with zipfile.ZipFile(folder / KERAS, "w") as archive:  # stored, as Keras does
        for member in members:
            archive.write(member, member.name)
            member.unlink()
