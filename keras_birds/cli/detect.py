"""`keras-birds detect`: all detections of many recordings in a folder, resumable."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_birds.cli.options import (
    COUNT,
    EXISTING_FILE,
    NEW_FOLDER,
    ModelChoice,
    PlaceChoice,
    RulesChoice,
    find_files,
    inputs_argument,
    model_options,
    place_options,
    ray_option,
    rules_options,
    score_options,
    strict_option,
)
from keras_birds.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from keras_birds.inference.classifier import Classifier
    from keras_birds.inference.scorer import RecordingStatus, ScoreOptions
    from keras_birds.results.outputs import Outputs
    from keras_birds.results.results import Results
    from keras_birds.results.writers.submission import Submission

_FORMATS = ("csv", "json", "parquet", "raven", "audacity", "kaleidoscope", "birdnet", "birdclef")
_BAR_EVERY_S, _LINE_EVERY_S = 0.1, 30.0


@click.command()
@inputs_argument
@click.option(
    "--out", required=True, type=NEW_FOLDER, help="Folder of results: a new one, or one to go on with."
)
@model_options
@score_options
@rules_options
@place_options
@click.option("--sites", type=EXISTING_FILE, help="Many places: a CSV with pattern, latitude and longitude.")
@click.option("--top-k", type=COUNT, help="Keep at most so many labels of each window. [default: all]")
@click.option(
    "--smooth",
    "smooth_windows",
    type=COUNT,
    default=1,
    metavar="N",
    help="Take the mean score over N neighbouring windows, an odd number.",
)
@click.option("--merge", is_flag=True, help="Make one event of a label's windows that touch.")
@click.option(
    "--format",
    "formats",
    type=click.Choice(_FORMATS),
    multiple=True,
    default=("csv",),
    help="Form of the table of detections. May be repeated.",
)
@click.option("--per-recording", is_flag=True, help="Write a table for each recording, not one for all.")
@click.option("--keep-scores", is_flag=True, help="Keep every window's scores too, in scores/.")
@click.option("--time-pattern", help="How names tell the time: REC_%Y%m%d_%H%M%S. [default: the common ways]")
@click.option(
    "--sample-submission", type=EXISTING_FILE, help="For birdclef: the competition's sample submission."
)
@ray_option("recordings")
@strict_option
def detect(
    inputs: tuple[str, ...],
    out: Path,
    model: ModelChoice,
    score: "ScoreOptions",
    rules: RulesChoice,
    place: PlaceChoice,
    sites: Path | None,
    formats: tuple[str, ...],
    per_recording: bool,
    keep_scores: bool,
    sample_submission: Path | None,
    ray_address: str | None,
    strict: bool,
    **other_rules: Any,
) -> int:
    """Find all detections in a disk of recordings; the same command goes on where it was stopped.

    \b
    keras-birds detect /mnt/disk --overlap 2.5 --out results
    keras-birds detect 'plots/*/2025*.wav' --out results --format raven --format csv
    keras-birds detect /mnt/disk --out results --threshold 0.5 --species birds.txt --merge
    find . -name '*.flac' -print0 | keras-birds detect - --out results
    keras-birds detect s3://bucket/season1/ --out results
    keras-birds detect /mnt/disk --out results --lat 37.0 --lon -6.4    # what occurs there
    keras-birds detect /mnt/disk --out results --sites sites.csv
    keras-birds detect /shared/season1 --out results --ray auto   # on a cluster

    One answer for each recording: keras-birds predict.

    INPUTS are files, folders (searched at any depth), globs, a .csv list with a column file, path or filename,
    URLs, and - for a list on stdin. Each recording is cut into the model's clips; the last one is filled as in the
    model's training: by repeating what it holds, or with silence (BirdNET). A file that can't be read is named on
    stderr with its reason, never scored, and the others go on. What was found in recordings that are out of reach
    when the command runs again stays.

    From BirdNET-Analyzer: --min_conf is --threshold, --sf_thresh is --occurrence, --slist is --species, --rtype csv is
    --format birdnet; --overlap and --sensitivity are the same (the latter as of version 2).

    \b
    sites.csv      pattern,latitude,longitude: a folder, folders in a row or a file's name,
                   with * and ?; of several that fit a recording the first counts

    \b
    manifest.csv   a row for every recording: status, reason, seconds read, ...
    detections.*   file,channel,start_s,end_s,start_time,label,scientific_name,
                   common_name,score,model_id,occurrence; or as Raven, Audacity, Kaleidoscope,
                   BirdNET and BirdCLEF write them
    summary.csv    each recording's labels: max, mean of the top 2, windows
    activity.csv   detections by label and hour of day, and activity.png
    detections/    the same rows as Parquet shards; scores/ with --keep-scores

    With --no-voices, windows in which people are heard, and those that touch them, have no rows anywhere, and clips of
    `keras-birds segments` end before them; the manifest's voices tells how many.

    Exit code: 0 all scored, 1 some failed or are out of reach (0 with --no-strict), 2 a wrong call.
    """
    connection: AbstractContextManager[None] = nullcontext()
    if ray_address is not None:
        from keras_birds.distributed.cluster import check_address, connect

        check_address(ray_address)
        connection = connect(ray_address)
    from keras_birds.results.journal import JOURNAL
    from keras_birds.results.outputs import write_outputs
    from keras_birds.results.results import Results, result_settings

    files, gone = find_files(inputs, may_be_gone=(out / JOURNAL).is_file())
    classifier = model.load()
    read = rules.read(classifier.labels, occurrence=place.read(classifier, sites=sites), **other_rules)
    keep_scores = keep_scores or "birdclef" in formats
    settings = result_settings(classifier, score, read, keep_scores)
    with (
        connection,  # first of all, so that a cluster out of reach leaves no folder behind
        Results(out, classifier.labels, classifier.model_id, read, settings, keep_scores) as results,
    ):
        counter = _score(results, files, model, classifier, score, ray_address)
        manifest = results.finish()
        outputs = write_outputs(results, classifier, formats, per_recording, sample_submission)
    _report(results, manifest, outputs, counter)
    return int(strict and bool(counter.failed or counter.gone or gone))


def _score(
    results: "Results",
    files: list[str],
    model: ModelChoice,
    classifier: "Classifier",
    options: "ScoreOptions",
    ray_address: str | None,
) -> "_Counter":
    """Scores what is still to do."""
    from keras_birds.cli.reporting import progress_bar
    from keras_birds.inference.scorer import PART_WINDOWS, score_recordings

    with ExitStack() as stack:
        score: Any = score_recordings
        if ray_address is not None:
            from keras_birds.distributed.predict import ClusterScorer

            say = partial(click.echo, err=True)
            score = stack.enter_context(ClusterScorer(classifier, model.provider, options.workers, say))
        counter = _Counter(results, len(files), stack.enter_context(progress_bar()))
        options = replace(options, part_windows=PART_WINDOWS)
        for scored in score(classifier, results.to_do(files), options, counter.on_scored):
            if recording := results.add(scored):
                counter.add(recording)
    return counter


class _Counter:
    """Counts, and writes problems and, where there is no bar, a line now and then."""

    def __init__(self, results: "Results", total: int, bar: "Progress"):
        self.scored = self.failed = self.gone = self.detections = 0
        self.unlikely = self.no_site = self.whole_year = self.voices = 0
        self._results, self._total, self._bar, self._scored_s = results, total, bar, 0.0
        self._began = self._told_at = time.monotonic()
        self._task = bar.add_task("", total=total)

    def on_scored(self, seconds: float) -> None:
        """Takes how much sound was scored."""
        self._scored_s += seconds
        self._show()

    def add(self, recording: "RecordingStatus") -> None:
        """Takes what became of a recording."""
        from keras_birds.results.occurrence import WHOLE_YEAR
        from keras_birds.results.report import describe_problem
        from keras_birds.results.results import NO_SITE

        is_scored = not (recording.not_seen or recording.failed)
        self.gone += bool(recording.not_seen)
        self.failed += recording.failed and not recording.not_seen
        self.scored += is_scored
        self.detections += is_scored * recording.detections
        self.voices += is_scored * recording.voices
        if is_scored and recording.place:
            self.unlikely += recording.unlikely
            self.no_site += recording.place == NO_SITE
            self.whole_year += recording.week == WHOLE_YEAR
        if problem := describe_problem(recording):
            self._bar.console.print(problem, soft_wrap=True)
        self._show()

    def summary(self) -> str:
        """For instance `6 recordings: 5 scored, 1 failed; 12 new detections; 2.31 h of audio, 210 × realtime; ...`."""
        counts = {"scored before": self._results.done_before, "failed": self.failed}
        counts["not seen this time, of which what was found before stays"] = self.gone
        parts = [f"{self.scored} scored", *(f"{n} {what}" for what, n in counts.items() if n)]
        text = f"{self._total} recordings: {', '.join(parts)}"
        if self.scored:
            spent_s = time.monotonic() - self._began
            text += f"; {self.detections} new detections{self._left_out()}; {self._speed()}; {spent_s:.1f} s in all"
        return text

    def _left_out(self) -> str:
        parts = []
        if self.unlikely:
            parts.append(f"{self.unlikely} left out as unlikely where and when they were recorded")
        if self.voices:
            parts.append(f"{self.voices} windows left out because of voices")
        if self.whole_year:
            parts.append(f"{self.whole_year} of the recordings tell no date: the whole year counts there")
        if self.no_site:
            parts.append(f"{self.no_site} of the recordings match no site: every label counts there")
        return "".join(f"; {x}" for x in parts)

    def _speed(self) -> str:
        spent_s = max(1e-3, time.monotonic() - self._began)
        return f"{self._scored_s / 3600:.2f} h of audio, {self._scored_s / spent_s:.0f} × realtime"

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._told_at < (_LINE_EVERY_S if self._bar.disable else _BAR_EVERY_S):
            return
        self._told_at = now
        done = self.scored + self.failed + self.gone + self._results.done_before
        if not self._bar.disable:
            self._bar.update(self._task, description=self._speed(), completed=done)
        else:
            click.echo(f"{done} of {self._total} files, {self._speed()}", err=True)


def _report(results: "Results", manifest: Path, outputs: "Outputs", counter: _Counter) -> None:
    """Draws the activity, and tells what was done and where it is."""
    files = [manifest, *outputs.files]
    if outputs.activity.detections.any():
        from keras_birds.plots.activity import activity_figure

        files.append(results.folder / "activity.png")
        activity_figure(outputs.activity, files[-1])
    gaps = _describe_gaps(outputs.submission) if outputs.submission else ()
    for line in (counter.summary(), *gaps):
        click.echo(line, err=True)
    more = [f"... and {len(files) - 20} more"] if len(files) > 20 else []
    click.echo("\n".join([*map(printable, files[:20]), *more]))


def _describe_gaps(submission: "Submission") -> Iterator[str]:
    if count := submission.unscored_rows:
        rows = "row has no scores and holds" if count == 1 else "rows have no scores and hold"
        yield f"submission.csv: {count} {rows} what the sample submission has there"
    if count := len(submission.absent):
        named = ", ".join(map(printable, submission.absent[:3])) + (", ..." if count > 3 else "")
        yield (
            f"submission.csv: no row for {named}, which can't be read; --sample-submission gives the rows that "
            "judges expect, if it lists them"
        )
