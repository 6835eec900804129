"""Recordings that nobody labelled, and that none of them is one of the data set's."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from keras_birds.audio.files import find_inputs
from keras_birds.audio.remote import is_url
from keras_birds.checksum import sha256_of
from keras_birds.data.catalog import Catalog, window_of
from keras_birds.data.soundscape_folder import sources_of
from keras_birds.data.tables import load_table
from keras_birds.errors import DataError
from keras_birds.progress import Reporter
from keras_birds.run_layout import ENVIRONMENT, SPLIT
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
    found = local_recordings([name], "data.unlabelled", reporter)
    require_strangers("data.unlabelled", found, catalog)
    return found


def require_strangers(
    setting: str, found: Iterable[str], catalog: Catalog, remedy: str = "take them out"
) -> None:
    """A `DataError` if one of a setting's recordings is the data set's, as `known_recordings` has it."""
    known = [Path(x) for x in catalog.recordings["path"]]
    if shared := known_recordings(map(Path, found), known):
        first, same, why = shared[0]
        raise DataError(
            f"{setting} must hold no recording of the data set: a fold would be measured on what it learnt. "
            f"Received: {len(shared)} of them, first {first}, which {why} {same}; {remedy}"
        )


def local_recordings(names: Sequence[str], what: str, reporter: Reporter) -> list[str]:
    """The recordings that names stand for, as `find_inputs` takes them, on this machine and with names in UTF-8.

    Raises:
        DataError: if there are none, or others; it calls them `what`.
    """
    try:
        found = list(find_inputs(names, None, reporter.problem))
    except DataError as error:
        raise DataError(f"{what}: {error}") from None
    if remote := next(filter(is_url, found), None):
        raise DataError(f"{what} must hold files on this machine. Received: {remote}")
    if odd := next((x for x in found if printable(x) != x), None):
        raise DataError(f"{what}: a file's name must be UTF-8. Received: {printable(odd)}; rename it")
    return found


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


def known_recordings(found: Iterable[Path], known: Sequence[Path]) -> list[tuple[Path, Path, str]]:
    """As `shared_recordings`, and also soundscapes that were made of known ones."""
    found = list(found)
    shared = {x[0]: x for x in shared_recordings(found, known)}
    return [*shared.values(), *(x for x in soundscapes_of(found, known) if x[0] not in shared)]


def soundscapes_of(found: Iterable[Path], known: Sequence[Path]) -> list[tuple[Path, Path, str]]:
    """Soundscapes that were made of known ones, as `shared_recordings`, each with one of its sources."""
    made_of = sources_of(found)
    made: dict[Path, tuple[Path, Path, str]] = {}
    for source, same, _ in shared_recordings(made_of, known):
        for path in made_of[source]:
            made.setdefault(path, (path, same, "was made of"))
    return list(made.values())


def _number(path: Path) -> str:
    """Of a recording in an archive, as `xc123456`; empty where its name has none."""
    found = _ARCHIVES.search(path.stem)
    return found[1].lower() if found else ""


def run_recordings(run: Path) -> list[Path]:
    """All recordings of the data set of a run, by its `split.csv`: where they lay when it began.

    Where the run doesn't say where, only their names are there. Raises `DataError` if there is no split.
    """
    try:
        root = Path(json.loads((run / ENVIRONMENT).read_text(encoding="utf-8"))["data"])
    except (OSError, ValueError, KeyError):
        root = Path()
    names = load_table(run / SPLIT, "a split", ["path"])["path"]
    windows = [window_of(x) for x in names]
    return [root / x for x in dict.fromkeys(w[0] if w else x for w, x in zip(windows, names, strict=True))]
