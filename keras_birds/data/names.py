"""Which label of one set is which label of another: by their names, and by synonyms.

`synonyms.csv` has pairs of names of one species, scientific or common, that lists of different years or countries use:
eBird/Clements 2021 (as BirdNET 2.4) to 2024, IOC, and older ones. Where a species was split, its parts are paired with
the whole, as a model that learnt the whole knows them.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from keras_birds.csv_table import read_records
from keras_birds.labels import Label, LabelSet

_KINDS = ("scientific_name", "common_name", "name")


def folded(name: str) -> str:
    """What is left of a name without capitals, accents, spaces, hyphens and apostrophes, and with `gray` for `grey`.

    `African Grey-Hornbill`, `african_gray_hornbill` and `African Gray Hornbill` become the same.
    """
    letters = unicodedata.normalize("NFKD", name).casefold()
    return "".join(filter(str.isalnum, letters)).replace("grey", "gray")


def match_labels(labels: LabelSet, known: LabelSet) -> np.ndarray:
    """Finds labels in another set: by scientific, then common name, then the label itself, then any name or synonym.

    A name that several of the `known` have counts for none of them.

    Returns:
        The place of each in `known`, int `[label]`; -1 where it has none.
    """
    tables = [_places(known, kind) for kind in _KINDS]
    anywhere = {name: place for table in reversed(tables) for name, place in table.items()}

    def candidates(label: Label) -> Iterator[int | None]:
        for kind, table in zip(_KINDS, tables, strict=True):
            yield table.get(folded(getattr(label, kind)))
        names = [folded(x) for x in _names(label)]
        yield from map(anywhere.get, names)
        yield from (anywhere.get(synonym) for x in names for synonym in _synonyms().get(x, ()))

    return np.array([next((x for x in candidates(y) if x is not None), -1) for y in labels.items], int)


def _names(label: Label) -> tuple[str, ...]:
    first, _, rest = label.name.partition("_")
    # A name such as `Turdus merula_Eurasian Blackbird` is two; `wood_thrush` is one.
    parts = (first, rest) if " " in first else ()
    return label.scientific_name, label.common_name, label.name, *parts


def _places(labels: LabelSet, kind: str) -> dict[str, int]:
    names = [folded(getattr(x, kind)) for x in labels.items]
    count = Counter(names)
    return {name: place for place, name in enumerate(names) if name and count[name] == 1}


@cache
def _synonyms() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    path = Path(__file__).with_name("synonyms.csv")
    for _, cells in read_records(path, ("name", "synonym"), "synonyms"):
        pair = folded(cells["name"]), folded(cells["synonym"])
        for name, other in (pair, pair[::-1]):
            found.setdefault(name, []).append(other)
    return found
