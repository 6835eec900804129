"""A folder of made soundscapes (`keras-birds data soundscapes`): written, and what they hold of a data set."""

import io
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import soundfile

from keras_birds.atomic import atomic_path, write_json
from keras_birds.data.catalog import Catalog
from keras_birds.data.tables import load_table, write_table
from keras_birds.errors import DataError
from keras_birds.parallel import map_in_order

if TYPE_CHECKING:
    from keras_birds.data.soundscapes import Call, Soundscape, SoundscapeMaker

ANNOTATIONS, TAXONOMY, ABOUT = "annotations.csv", "taxonomy.csv", "soundscapes.json"
COLUMNS = ("file", "start_s", "end_s", "label", "low_hz", "high_hz", "snr_db", "distance_m", "source")
DATA = "data"
"""In `soundscapes.json`: the folder of the data set, from which the paths in the column `source` go out."""


@dataclass(frozen=True, eq=False)
class Made:
    """What `make_soundscapes` wrote: the table of calls, and how many drawn ones aren't there, and why."""

    calls: pd.DataFrame
    too_faint: int
    no_room: int
    backgrounds: int
    unusable: list[tuple[str, str]]
    """Recordings without a sound, or that can't be read, with the reason; others were drawn instead."""


def make_soundscapes(
    maker: "SoundscapeMaker",
    catalog: Catalog,
    out: Path,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Made:
    """Writes soundscapes as 16-bit FLAC, `annotations.csv` of their calls, `taxonomy.csv` and `soundscapes.json`.

    The annotations come last: where they are, all is there. Equal settings and sources give equal files.

    Args:
        maker: makes them.
        catalog: whose labels the taxonomy has.
        out: a new or empty folder, or one in which the same was begun.
        workers: threads.
        progress: called with the soundscapes done and to do.

    Raises:
        DataError: if the folder holds anything else, or too little can be read.
    """
    scene = maker.scene
    about = {"settings": asdict(scene), "sample_rate_hz": maker.rate_hz, **maker.sources()}
    _claim(out, about)
    width = max(4, len(str(scene.count)))
    names = [f"soundscape_{k:0{width}}.flac" for k in range(1, scene.count + 1)]
    rows: list[dict[str, Any]] = []
    told: dict[str, Any] = {}
    too_faint = no_room = 0
    for k, made in map_in_order(partial(_write_one, maker, out, names), [iter(range(scene.count))], workers):
        rows += [{"file": names[k], **_rounded(x)} for x in made.calls] or [{"file": names[k]}]
        too_faint, no_room = too_faint + made.too_faint, no_room + made.no_room
        told[names[k]] = {
            "snr_db": round(made.snr_db, 2),
            "reverb_s": round(made.reverb_s, 3),
            "background": made.background,
        }
        progress(k + 1, scene.count)
    left_out = dict(maker.unusable)
    places = {DATA: str(catalog.root.resolve()), "left_out": left_out, "soundscapes": told}
    write_json(out / ABOUT, {**about, **places})
    labels = pd.DataFrame(catalog.labels.items).rename(columns={"name": "primary_label"})
    write_table(labels, out / TAXONOMY)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    write_table(table, out / ANNOTATIONS)
    backgrounds = {x for y in told.values() for x in y["background"]}
    return Made(table.dropna(subset=["label"]), too_faint, no_room, len(backgrounds), maker.unusable)


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


def _claim(out: Path, about: dict[str, Any]) -> None:
    """Makes the folder; a `DataError` where it holds anything but soundscapes of the same settings and sources."""
    about = json.loads(json.dumps(about))
    if out.is_dir() and any(out.iterdir()):
        found = None
        with suppress(OSError, ValueError):
            found = json.loads((out / ABOUT).read_text(encoding="utf-8"))
        if not isinstance(found, dict) or {x: found.get(x) for x in about} != about:
            what = "other soundscapes" if isinstance(found, dict) else "something else"
            rule = "--out must be a new or empty folder, or one where the same was begun"
            raise DataError(f"{rule}. Received: {out}, which holds {what}; choose another or delete it")
    out.mkdir(parents=True, exist_ok=True)
    (out / ANNOTATIONS).unlink(missing_ok=True)
    write_json(out / ABOUT, about)


def _write_one(maker: "SoundscapeMaker", out: Path, names: list[str], k: int) -> "Soundscape":
    made = maker.make(k)
    file = io.BytesIO()  # libsndfile doesn't say that a disk is full
    soundfile.write(file, made.samples, maker.rate_hz, format="FLAC", subtype="PCM_16")
    with atomic_path(out / names[k]) as temporary:
        temporary.write_bytes(file.getvalue())
    return made


def _rounded(call: "Call") -> dict[str, Any]:
    digits = {"start_s": 3, "end_s": 3, "low_hz": 0, "high_hz": 0, "snr_db": 1, "distance_m": 1}
    return {x: round(y, digits[x]) if x in digits else y for x, y in asdict(call).items()}
