"""What a search found, as a folder: a table, and clips for people to listen to."""

from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from keras_birds.embeddings.queries import Queries
from keras_birds.embeddings.search import Hit
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.results.clips import Clip, check_new_folder, clip_stem, cut_clips
from keras_birds.results.writers.files import new_text
from keras_birds.results.writers.rows import decimal, six_digits
from keras_birds.text import csv_writer

HIT_COLUMNS = (
    *("rank", "similarity", "file", "channel", "start_s", "end_s", "row", "duplicate_of"),
    *("query", "query_start_s", "query_end_s", "clip"),
)
"""Of `hits.csv`, a row a hit: as `search` gives them, then the query that it is nearest to, and the clip's path below
the folder of the table, empty where there is none."""


def write_hits(
    store: EmbeddingStore,
    hits: Sequence[Hit],
    queries: Queries,
    out: Path,
    with_clips: bool = True,
    on_problem: Callable[[str, str, int], None] = lambda *_: None,
    on_done: Callable[[int], None] = lambda _: None,
) -> Path:
    """Writes `out/hits.csv`, and each hit's window as `out/clips/<rank>_<similarity>_<recording>_<start>s.flac`.

    Args:
        store: what was searched.
        hits: one answer.
        queries: what was searched for.
        out: a new or an empty folder.
        with_clips: whether to cut clips.
        on_problem: is told of a recording whose clips can't be cut: its name, why, and how many are lost.
        on_done: is told how many clips more are done or lost.

    Returns:
        The table.

    Raises:
        ConfigError: if `out` holds something, or a package that a URL needs isn't installed.
        KerasBirdsError: if a file can't be written. The table is there before the clips, and again with their names.
    """
    check_new_folder(out)
    table = out / "hits.csv"
    names: dict[int, str] = {}
    _write(table, hits, queries, names)
    if not with_clips:
        return table
    recordings = {x.file: x for x in store.recordings}
    clips = [Clip(recordings[x.file], x.start_s, x.end_s, _clip_name(x)) for x in hits]
    try:
        for k, _ in cut_clips(clips, out, "flac", on_problem, on_done):
            names[k] = clips[k].name.as_posix()
    finally:
        _write(table, hits, queries, names)
    return table


def _write(table: Path, hits: Sequence[Hit], queries: Queries, names: dict[int, str]) -> None:
    with new_text(table) as stream:
        rows = csv_writer(stream)
        rows.writerow(HIT_COLUMNS)
        for k, x in enumerate(hits):
            place = x.file, x.channel, decimal(x.start_s), decimal(x.end_s), x.row, x.duplicate_of
            query = queries.files[x.query], *map(decimal, queries.spans_s[x.query])
            rows.writerow((x.rank, six_digits(x.similarity), *place, *query, names.get(k, "")))


def _clip_name(hit: Hit) -> PurePath:
    return PurePath("clips", f"{hit.rank:04d}_{clip_stem(hit.similarity, hit.file, hit.start_s)}.flac")
