"""`keras-birds search`: the windows of a store that sound most like a call."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_birds.cli.options import (
    COUNT,
    EXISTING_FOLDER,
    NEW_FOLDER,
    choice_option,
    find_files,
    model_path,
    strict_option,
)
from keras_birds.text import printable

if TYPE_CHECKING:
    from keras_birds.embeddings.index import SearchIndex
    from keras_birds.embeddings.queries import Queries
    from keras_birds.embeddings.search import Hit
    from keras_birds.embeddings.store import EmbeddingStore

_TIME = click.FloatRange(min=0)
_SHOWN = 20


@click.command()
@click.argument("store", type=EXISTING_FOLDER)
@click.argument("sounds", nargs=-1, metavar="[QUERY]...")
@click.option("--start", "start_s", type=_TIME, metavar="SECONDS", help="Where the call begins in QUERY.")
@click.option(
    *("--end", "end_s"),
    type=_TIME,
    metavar="SECONDS",
    help="Where it ends. [default: a window of the model after --start]",
)
@click.option("--row", "rows", type=click.IntRange(0), multiple=True, help="Search for this window of STORE.")
@click.option("--top", type=click.IntRange(1, 10_000), default=100, help="Give so many windows.")
@click.option("--per-recording", type=COUNT, help="Give at most so many of a recording. [default: all]")
@choice_option(
    "--metric",
    ("centred", "cosine", "dot"),
    "Compare what windows have beyond the mean of STORE, or all of it, or plain products, which loud ones win.",
)
@click.option("--out", type=NEW_FOLDER, help="Folder for the table, clips and a picture: new or empty.")
@click.option("--clips/--no-clips", default=True, help="Cut clips for --out.")
@click.option("--index", is_flag=True, help="Answer by an index, which is built first if need be.")
@click.option(
    "--model", type=model_path, metavar="PATH|NAME", help="Where STORE's model is now, if it has moved."
)
@strict_option
def search(
    store: Path,
    sounds: tuple[str, ...],
    rows: tuple[int, ...],
    top: int,
    per_recording: int | None,
    metric: str,
    out: Path | None,
    index: bool,
    strict: bool,
    **how: Any,
) -> int:
    """Find the windows that sound most like a call, among all recordings that were embedded.

    \b
    keras-birds embed /mnt/disk --model birdnet --out season1.emb
    keras-birds search season1.emb call.wav --start 3 --out hits   # 3 s is where the call begins
    keras-birds search season1.emb call.wav --start 3 --end 4.5
    keras-birds search season1.emb train_audio/wren/ --per-recording 5 --out hits
    keras-birds search season1.emb --row 123
    keras-birds search season1.emb --index                         # builds the index, no more

    STORE is a folder that `keras-birds embed` wrote. QUERY is a clip of the call, several, or a folder of them. What is
    shorter than the model's window is filled as in the model's training; of what is longer each window is searched
    for, so give a part of it where it holds other sounds as well. With several, a window counts by the one that it is
    most like. A query that was embedded itself is among the hits.

    All windows are compared: half a second a million on two free processors, once the store is in memory. --index
    answers in a tenth of that, and may miss some: how many is measured and printed when it is built, which takes
    seconds a million windows. It is for --metric centred, and is built anew once the store has grown.

    \b
    hits.csv   rank,similarity,file,channel,start_s,end_s,row,duplicate_of,
               query,query_start_s,query_end_s,clip
    clips/     <rank>_<similarity>_<recording>_<start>s.flac
    hits.png   spectrograms of the query and the first hits

    duplicate_of is the row of a better hit that is nearly the same (a copied file) or overlaps in the recording, else
    -1.

    Exit code: 0, 1 some queries or clips failed (0 with --no-strict), 2 a wrong call.
    """
    from keras_birds.embeddings.index import ADVISED_FROM
    from keras_birds.embeddings.search import hits_of
    from keras_birds.embeddings.search import search as find
    from keras_birds.embeddings.store import EmbeddingStore
    from keras_birds.results.clips import check_new_folder

    if not (sounds or rows or index):
        raise click.UsageError("search needs a QUERY or --row. Received: neither")
    if index and metric != "centred":
        raise click.UsageError(f"--index is for --metric centred. Received: --metric {metric}")
    if out is not None:
        check_new_folder(out)
    opened = EmbeddingStore(store)
    queries, failed = _queries(opened, sounds, rows, how)
    used = _index(opened) if index else None
    if queries is None:
        return 0
    if used is None and len(opened) >= ADVISED_FROM:
        click.echo(f"{len(opened):,} windows: with --index answers come sooner", err=True)
    hits = hits_of(find(opened, queries.vectors, top, metric, per_recording, used))
    click.echo(_table(hits, out))
    if out is not None:
        failed += _write(opened, hits, queries, out, bool(how["clips"]))
    return int(strict and failed > 0)


def _queries(
    store: "EmbeddingStore",
    sounds: tuple[str, ...],
    rows: tuple[int, ...],
    how: dict[str, Any],
) -> "tuple[Queries | None, int]":
    """What to search for, `None` for nothing, and how many of the files failed."""
    from keras_birds.embeddings.queries import check_part, joined, row_queries, sound_queries, store_model

    failed: list[str] = []

    def on_problem(file: str, reason: str) -> None:
        failed.append(file)
        click.echo(f"Failed: {printable(file)}: {reason}", err=True)

    found = [row_queries(store, rows)] if rows else []
    files = find_files(sounds, argument="QUERY")[0] if sounds else []
    start_s, end_s = how["start_s"], how["end_s"]
    check_part(start_s, end_s, len(files), store.audio)
    if files:
        classifier = store_model(store, how["model"])
        found.append(sound_queries(classifier, files, start_s, end_s, on_problem if len(files) > 1 else None))
        if (count := len(found[-1])) > len(files) - len(failed):
            window_s = classifier.audio.window_s
            choose = "; --start chooses one" * (len(files) == 1)
            click.echo(f"Searching for {count} windows of {window_s:g} s{choose}", err=True)
    return (joined(found) if found else None), len(failed)


def _index(store: "EmbeddingStore") -> "SearchIndex":
    """The store's index, built if there is none or the store changed."""
    from keras_birds.cli.reporting import progress_bar
    from keras_birds.embeddings.index import SearchIndex, build_index
    from keras_birds.errors import DataError

    try:
        return SearchIndex(store)
    except DataError:
        click.echo(f"Building the index of {len(store):,} windows", err=True)
    with progress_bar() as bar:
        task = bar.add_task("Building the index", total=len(store))
        built = build_index(store, lambda count: bar.update(task, completed=count))
    click.echo(f"Index: {built.recall:.3f} of the 100 nearest windows are found (recall@100)", err=True)
    return built


def _table(hits: "list[Hit]", out: Path | None) -> str:
    """The first hits where all are in a file, else all."""
    from keras_birds.cli.reporting import text_table

    ranks = {x.row: x.rank for x in hits}
    rows: list[tuple[object, ...]] = [("rank", "similarity", "start_s", "end_s", "row", "file")]
    for x in hits[: _SHOWN if out else None]:
        note = f"  (as {ranks[x.duplicate_of]})" if x.duplicate_of >= 0 else ""
        times = f"{x.start_s:.1f}", f"{x.end_s:.1f}"
        channel = f", channel {x.channel}" if x.channel else ""
        rows.append((x.rank, x.similarity, *times, x.row, f"{printable(x.file)}{channel}{note}"))
    more = len(hits) - len(rows) + 1
    return text_table(*rows) + (f"\n{more} more in {printable(out / 'hits.csv')}" if out and more else "")


def _write(store: "EmbeddingStore", hits: "list[Hit]", queries: "Queries", out: Path, cut: bool) -> int:
    """Writes the folder; how many clips failed."""
    from keras_birds.cli.reporting import progress_bar
    from keras_birds.embeddings.hits import write_hits
    from keras_birds.plots.hits import Panel, hits_figure

    failed = 0
    with progress_bar() as bar:
        task = bar.add_task("Cutting clips", total=len(hits), visible=cut)

        def tell(file: str, reason: str, clips: int) -> None:
            nonlocal failed
            failed += clips
            line = f"Failed: {printable(file)}: {reason} ({clips} clip{'s' * (clips != 1)})"
            bar.console.print(line, soft_wrap=True)

        files = [write_hits(store, hits, queries, out, cut, tell, lambda count: bar.advance(task, count))]
    if len(hits):
        best = hits[0].query
        panels = [Panel(f"{x.rank}   {x.similarity:.3f}", x.file, x.start_s, x.end_s) for x in hits]
        files.append(out / "hits.png")
        hits_figure(
            Panel("query", queries.files[best], *queries.spans_s[best]), panels, store.audio, files[-1]
        )
    for file in files:
        click.echo(printable(file))
    return failed
