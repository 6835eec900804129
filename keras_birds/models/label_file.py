"""Reads the labels that come with models of others: a label a line, or a table."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from keras_birds.csv_table import read_csv, read_records
from keras_birds.errors import DataError
from keras_birds.labels import Label, LabelSet

LATIN = re.compile(r"[A-Z][a-z-]+ [a-z-]+(?: [a-z-]+)?")
"""How a scientific name is written."""

_NAMES = ("label", "name")
_MORE = ("scientific_name", "common_name", "class_name")


def read_labels(
    path: Path,
    sizes: Container[int] | None = None,
    may_repeat: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> LabelSet:
    """Reads labels in the order of the model's outputs.

    A `.csv` has a column `label` or `name`, and may have `scientific_name`, `common_name` and `class_name`. Any other
    file has a label a line, and so may a `.csv` of one column: of lines as BirdNET's, `Turdus merula_Common Blackbird`,
    the label is the scientific name, unless that is there twice: then the line.

    Args:
        path: the file.
        sizes: numbers of labels that the model could have: where the lines of a `.csv` are one more, the first is its
            heading.
        may_repeat: whether lines may come again: the second `Turdus merula` is then `Turdus merula (2)`.
        say: gets a line on a heading, and on labels that are there again.

    Raises:
        DataError: if the file can't be read, is empty, holds a label twice, or is a table without such a column.
    """
    is_table = path.suffix.lower() == ".csv"
    if is_table and (header := read_csv(path, "labels")[0]):
        found = [x for x in _NAMES if x in header]
        if found:
            return LabelSet(
                Label(row[found[0]], *(row.get(x, "") for x in _MORE))
                for _, row in read_records(path, found[:1], "labels")
            )
        if len(header) > 1:
            raise DataError(
                f"{path}: a table of labels must have a column {' or '.join(_NAMES)}. Received: {', '.join(header)}"
            )
    lines = _lines(path)
    if is_table and sizes is not None and len(lines) not in sizes and len(lines) - 1 in sizes:
        say(f"{path}: its first line, {lines.pop(0)}, is taken for a heading")
    if not lines:
        raise DataError(f"{path}: labels must be one a line. Received: none")
    labels = list(map(_label_of, lines))
    count = Counter(x.scientific_name for x in labels)
    is_name = {k: k and (may_repeat or n == 1) for k, n in count.items()}
    labels = [replace(x, name=x.scientific_name) if is_name[x.scientific_name] else x for x in labels]
    if may_repeat:
        before, labels = labels, list(_numbered(labels))
        if again := [x.name for x, y in zip(labels, before, strict=True) if x != y]:
            more = f" and {len(again) - 5} more" if len(again) > 5 else ""
            say(f"{path}: labels that are there again have a number: {', '.join(again[:5])}{more}")
    return LabelSet(labels)


def _label_of(line: str) -> Label:
    first, _, common = line.partition("_")
    is_species = common and (LATIN.fullmatch(first) or first == common)
    return Label(line, first, common) if is_species else Label(line)


def _numbered(labels: Sequence[Label]) -> Iterator[Label]:
    seen: Counter[str] = Counter()
    for label in labels:
        seen[label.name] += 1
        count = seen[label.name]
        yield label if count == 1 else replace(label, name=f"{label.name} ({count})")


def _lines(path: Path) -> list[str]:
    """Lines that hold something; of a `.csv` what its quotes hold."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: labels must be readable UTF-8 text. Received: {error}") from None
    lines = [x.strip() for x in text.splitlines()]
    if path.suffix.lower() == ".csv":
        lines = [x[0].strip() if x else "" for x in csv.reader(lines)]
    return [x for x in lines if x]
