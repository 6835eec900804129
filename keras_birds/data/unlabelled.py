"""Recordings that nobody labelled, and that none of them is one of the data set's."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from keras_birds.audio.files import find_inputs
from keras_birds.audio.remote import is_url
from keras_birds.checksum import sha256_of
from keras_birds.data.catalog import Catalog
from keras_birds.errors import DataError
from keras_birds.progress import Reporter
from keras_birds.text import printable

# Of Xeno-canto, iNaturalist, the Macaulay Library and the Colección de Sonidos Ambientales. Other names, as those of
# recorders, are the same in many places.
_ARCHIVES = re.compile(r"(?<![a-z])((?:xc|inat|ml|csa)\d{4,})", re.IGNORECASE)


def find_unlabelled(name: str, catalog: Catalog, reporter: Reporter) -> list[str]:
    """The recordings of `data.unlabelled`, a folder or what `find_inputs` takes; none where it is empty.

    Raises:
        DataError: if there are none, or one is the data set's: by its place, content, or number in an archive. Each
            recording of the data set is hidden or validates a fold, which would then be measured on what it learnt.
    """
    if not name:
        return []
    try:
        found = list(find_inputs([name], None, reporter.problem))
    except DataError as error:
        raise DataError(f"data.unlabelled: {error}") from None
    if remote := next(filter(is_url, found), None):
        raise DataError(f"data.unlabelled must hold files on this machine. Received: {remote}")
    if odd := next((x for x in found if printable(x) != x), None):
        raise DataError(
            f"data.unlabelled: a file's name must be UTF-8. Received: {printable(odd)}; rename it"
        )
    require_strangers("data.unlabelled", found, catalog)
    return found


def require_strangers(setting: str, found: Iterable[str], catalog: Catalog) -> None:
    """A `DataError` if one of a setting's recordings is the data set's, by its place, content, or archive number."""
    known = [Path(x) for x in catalog.recordings["path"]]
    if shared := shared_recordings(map(Path, found), known):
        first, same, why = shared[0]
        raise DataError(
            f"{setting} must hold no recording of the data set: a fold would be measured on what it learnt. "
            f"Received: {len(shared)} of them, first {first}, which {why} {same}; take them out"
        )


def shared_recordings(found: Iterable[Path], known: Sequence[Path]) -> list[tuple[Path, Path, str]]:
    """Those that are among known ones, by place, number in an archive or content: each, its twin, and why in words.

    Known ones that aren't there any more are still known by place and number.
    """
    places = {x.resolve(): x for x in known}
    numbers = {number: x for x in known if (number := _number(x))}
    sizes: dict[int, list[Path]] = {}
    for path in places:
        if path.is_file():
            sizes.setdefault(path.stat().st_size, []).append(path)
    digests: dict[int, dict[str, Path]] = {}  # by size, of those that a found one is as large as
    shared = []
    for path in found:
        size = path.stat().st_size if path.is_file() else -1
        if same := places.get(path.resolve()):
            shared.append((path, same, "is"))
        elif same := numbers.get(_number(path)):
            shared.append((path, same, "has the number of"))
        elif size in sizes:
            if size not in digests:
                digests[size] = {sha256_of(x): x for x in sizes[size]}
            if same := digests[size].get(sha256_of(path)):
                shared.append((path, same, "holds the same as"))
    return shared


def _number(path: Path) -> str:
    """Of a recording in an archive, as `xc123456`; empty where its name has none."""
    found = _ARCHIVES.search(path.stem)
    return found[1].lower() if found else ""
