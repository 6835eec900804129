"""The files beside made soundscapes (`keras-birds data soundscapes`), and what these hold of a data set."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from keras_birds.data.tables import load_table
from keras_birds.errors import DataError

ANNOTATIONS, TAXONOMY, ABOUT = "annotations.csv", "taxonomy.csv", "soundscapes.json"
COLUMNS = ("file", "start_s", "end_s", "label", "low_hz", "high_hz", "snr_db", "distance_m", "source")
DATA = "data"
"""In `soundscapes.json`: the folder of the data set, from which the paths in the column `source` go out."""


def sources_of(found: Iterable[Path]) -> dict[Path, list[Path]]:
    """Recordings that are heard in those of others that are made soundscapes: each with all in which it is."""
    folders: dict[Path, dict[str, Path]] = {}
    for path in found:
        folders.setdefault(path.parent, {})[path.name] = path
    sources: dict[Path, list[Path]] = {}
    for folder, names in folders.items():
        try:
            root = json.loads((folder / ABOUT).read_text(encoding="utf-8"))[DATA]
            table = load_table(folder / ANNOTATIONS, "annotations", ("file", "source"))
        except (OSError, ValueError, KeyError, TypeError, DataError):
            continue
        for name, source in zip(table["file"], table["source"], strict=True):
            if source and name in names:
                sources.setdefault(Path(root, source), []).append(names[name])
    return sources


def source_names(annotations: Path) -> list[str]:
    """Paths in their data set of all recordings that are heard in made soundscapes; none by other annotations."""
    with suppress(DataError):
        return sorted(set(load_table(annotations, "annotations", ("source",))["source"]) - {""})
    return []
