"""The ordered set of labels that a model scores."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from keras_birds.errors import DataError


@dataclass(frozen=True)
class Label:
    """One label with what the taxonomy says of it; unknown fields are empty strings."""

    name: str
    scientific_name: str = ""
    common_name: str = ""
    class_name: str = ""

    @property
    def display_name(self) -> str:
        """What people call it: the common name, or the scientific one, or the label."""
        return self.common_name or self.scientific_name or self.name


def near_duplicates(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of names that differ in case, white space or Unicode form only, as `Dog` and `dog`; in their order."""
    groups: dict[str, dict[str, None]] = {}
    for name in names:
        folded = unicodedata.normalize("NFKC", " ".join(name.split())).casefold()
        groups.setdefault(folded, {})[name] = None
    return [tuple(x) for x in groups.values() if len(x) > 1]


class LabelSet(Sequence[str]):
    """Unique labels in taxonomy order. Labels are strings, also those that look like numbers.

    Args:
        labels: `Label` objects or plain strings, in the order of the model's outputs.

    Raises:
        DataError: if a label is not a string, is empty or appears twice.
    """

    def __init__(self, labels: Iterable[Label | str]):
        self.items: tuple[Label, ...] = tuple(x if isinstance(x, Label) else Label(x) for x in labels)
        self.names: tuple[str, ...] = tuple(x.name for x in self.items)
        for name in self.names:
            if not isinstance(name, str) or not name:
                raise DataError(f"A label must be a non-empty string. Received: {name!r}")
        self._index = {name: i for i, name in enumerate(self.names)}
        if twice := sorted(name for name, count in Counter(self.names).items() if count > 1):
            raise DataError(f"Labels must be unique. Received twice: {', '.join(twice)}")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]
        return self.names[i]

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelSet) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"LabelSet({list(self.names)!r})"

    def index(self, value: str, *args: Any) -> int:
        """Column of a label in `scores[clip, label]`; raises `DataError` if it is unknown."""
        try:
            return self._index[value]
        except KeyError:
            raise DataError(f"The label must be one of the {len(self)} known. Received: {value!r}") from None
