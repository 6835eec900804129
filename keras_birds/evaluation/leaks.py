"""Whether recordings of one source, cut from one tape or made by one recordist in one place, sit on both sides."""

from dataclasses import dataclass
from pathlib import Path

from keras_birds.data.tables import load_table
from keras_birds.run_layout import SPLIT


@dataclass(frozen=True)
class Leaks:
    """Sources, as the data set's author column names them, that lie in more than one part of a split.

    Args:
        sources: that recordings name.
        divided: sources of which one part trains a fold and another part measures it.
        recordings: of the divided sources.
        named: recordings that name a source at all.
        example: a divided source; empty without one.
    """

    sources: int
    divided: int
    recordings: int
    named: int
    example: str


def find_leaks(run: Path) -> Leaks:
    """Reads a run's split.

    Raises:
        DataError: if it can't be read.
    """
    path = run / SPLIT
    split = load_table(path, "a split", ("fold", "author"))
    named = split[split["author"] != ""]
    groups = named.groupby("author")["fold"]
    parts, sizes = groups.nunique(), groups.size()
    divided = parts[parts > 1].index
    example = str(sizes[divided].idxmax()) if len(divided) else ""
    return Leaks(len(parts), len(divided), int(sizes[divided].sum()), len(named), example)
