"""`keras-birds segments`: cut detections to clips that people listen to."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_birds.cli.options import ANY_PATH, COUNT, EXISTING_FOLDER, SHARE, choice_option

if TYPE_CHECKING:
    from keras_birds.results.segments import Segment, SegmentPicker


@click.command()
@click.argument("results", type=EXISTING_FOLDER)
@click.option(
    "--out", required=True, type=ANY_PATH, metavar="FOLDER", help="Folder of the clips: new or empty."
)
@click.option("--per-label", type=COUNT, default=20, help="Cut at most so many clips of each label.")
@choice_option(
    "--pick",
    ("best", "random", "balanced", "stratified"),
    "Which: the best detections, any, some of each tenth of the scores, or windows for `keras-birds density`.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 600),
    default=5.0,
    help="Length of a clip, around a detection's middle.",
)
@click.option("--label", "labels", multiple=True, help="Cut this label or name only. May be repeated.")
@click.option("--min-score", type=SHARE, default=0.0, metavar="P", help="Leave out lower scores than this.")
@click.option("--seed", type=click.IntRange(0), default=42, help="The same seed draws the same clips.")
@choice_option("--format", ("flac", "wav"), "Kind of the clips.", "fmt")
def segments(
    results: Path,
    out: Path,
    per_label: int,
    pick: str,
    seconds: float,
    labels: tuple[str, ...],
    min_score: float,
    seed: int,
    fmt: str,
) -> int:
    """Cut detections to clips, for people to listen to.

    \b
    keras-birds detect recordings/ --out results
    keras-birds segments results --out clips                     # the 20 best of each label
    keras-birds segments results --out frogs --label 1139490 --label "White-tipped Dove"
    keras-birds segments results --out check --pick balanced --per-label 50 --seconds 3
    keras-birds segments results --out sure --pick random --min-score 0.9 --format wav
    keras-birds segments results --out checked --pick stratified --label bkcdon --per-label 100

    RESULTS is a folder that `keras-birds detect --out FOLDER` left; the recordings must still be where they were.

    \b
    best      the highest scores: is the label there at all?
    random    any, whatever their scores: how many of the detections are right?
    balanced  as many of each tenth of the scores (0.2 to 0.3, 0.3 to 0.4, ...), random
              within it: where does a threshold belong, what is a score worth?
    stratified  all windows by score in bins that halve (the lower half, the next quarter,
              the next eighth, ...), equally many of each, also below the threshold: how many
              calls are there? For `keras-birds density`; needs `detect --keep-scores`

    Detections of a label that overlap, or whose clips would, give one clip. After `detect --merge` the clip is the
    middle of the event, which may be long.

    \b
    clips/<label>/<score>_<recording>_<start>s.flac   with the recording's rate and channels
    clips/segments.csv   clip,label,scientific_name,common_name,score,file,channel,
                         start_s,end_s,clip_start_s,clip_end_s,review
                         (a row for each clip; review is empty, for you: right, wrong or unsure)
    clips/strata.csv     of --pick stratified: label,from_score,windows,drawn

    A recording that is gone, has changed or can't be read is named on stderr with its reason, and the others go on.

    Exit code: 0 all cut, 1 some failed or there was nothing to cut, 2 a wrong call.
    """
    from keras_birds.cli.reporting import progress_bar
    from keras_birds.errors import DataError
    from keras_birds.results.segments import SegmentPicker, check_new_folder, cut_segments
    from keras_birds.results.strata import STRATA, draw_segments, write_strata
    from keras_birds.text import printable

    check_new_folder(out)
    strata = None
    if pick == "stratified":
        if not labels or min_score:
            raise click.UsageError(
                "--pick stratified draws from all windows of a label: give --label, no --min-score"
            )
        strata, picked = draw_segments(results, labels, per_label, seed)
    else:
        picked = _picked(results, SegmentPicker(per_label, pick, seconds, labels, min_score, seed))
    if not picked:
        raise DataError(
            f"there must be detections to cut. Received: none in {results} as asked for. Choose another --label or "
            "--min-score, or detect with a lower --threshold"
        )
    with progress_bar() as bar:
        task = bar.add_task("Cutting clips", total=len(picked))
        failed: list[int] = []

        def tell(file: str, reason: str, clips: int) -> None:
            failed.append(clips)
            line = f"Failed: {printable(file)}: {reason} ({_count(clips, 'clip')})"
            bar.console.print(line, soft_wrap=True)

        table = cut_segments(picked, out, seconds, fmt, tell, lambda count: bar.advance(task, count))
    if strata is not None:
        write_strata(out / STRATA, strata)
    n_labels = len({x.label for x in picked})
    click.echo(
        f"{_count(len(picked) - sum(failed), 'clip')} of {_count(n_labels, 'label')}: {printable(out)}",
        err=True,
    )
    click.echo(printable(table))
    if failed:
        click.echo(f"{_count(sum(failed), 'clip')} of {_count(len(failed), 'recording')} failed.", err=True)
    return int(bool(failed))


def _picked(results: Path, picker: "SegmentPicker") -> "list[Segment]":
    """What is picked of the detections; labels without any are told."""
    from keras_birds.cli.reporting import progress_bar
    from keras_birds.results.results import read_detections
    from keras_birds.text import printable

    with progress_bar() as bar:
        task = bar.add_task("Recordings read", total=None)
        for recording, rows in read_detections(results):
            picker.add(recording, rows)
            bar.advance(task)
    for name in picker.not_found:
        click.echo(f"Warning: no detection of {printable(name)}", err=True)
    return picker.picked()


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
