"""`keras-birds detect`: all detections of many recordings in a folder, resumable."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_birds.cli.batch import Counter, connection_to, scoring
from keras_birds.cli.context_options import ContextChoice, context_options
from keras_birds.cli.options import (
    COUNT,
    EXISTING_FILE,
    NEW_FOLDER,
    ModelChoice,
    find_files,
    inputs_argument,
    model_options,
    ray_option,
    score_options,
    strict_option,
)
from keras_birds.cli.origin_options import OriginChoice, OriginCounter, origin_options
from keras_birds.cli.rules_options import PlaceChoice, RulesChoice, place_options, rules_options
from keras_birds.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from keras_birds.embeddings.scoring import StoredRecordings
    from keras_birds.embeddings.store import EmbeddingStore
    from keras_birds.inference.classifier import Classifier
    from keras_birds.inference.scorer import RecordingStatus, ScoreOptions
    from keras_birds.results.outputs import Outputs
    from keras_birds.results.results import Results
    from keras_birds.results.writers.submission import Submission

_FORMATS = ("csv", "json", "parquet", "raven", "audacity", "kaleidoscope", "birdnet", "birdclef")


@click.command()
@inputs_argument
@click.option(
    "--out", required=True, type=NEW_FOLDER, help="Folder of results: a new one, or one to go on with."
)
@model_options
@score_options
@rules_options
@place_options
@origin_options
@click.option("--top-k", type=COUNT, help="Keep at most so many labels of each window. [default: all]")
@context_options
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
    origin: OriginChoice,
    in_context: ContextChoice,
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
    keras-birds detect /mnt/disk --out results --occurrence 0.03   # at the places that recorders tell
    keras-birds detect /mnt/disk --out results --deployments deployments.csv --timezone Europe/Berlin
    keras-birds detect /shared/season1 --out results --ray auto   # on a cluster
    keras-birds detect season1.emb --model runs/my-call --out results   # from embeddings: minutes for a season

    One answer for each recording: keras-birds predict.

    INPUTS are files, folders (searched at any depth), globs, a .csv list with a column file, path or filename,
    URLs, and - for a list on stdin. Each recording is cut into the model's clips; the last one is filled as in the
    model's training: by repeating what it holds, or with silence (BirdNET). A file that can't be read is named on
    stderr with its reason, never scored, and the others go on. What was found in recordings that are out of reach
    when the command runs again stays.

    In place of INPUTS there may be one store that `keras-birds embed` wrote, with the model that it was made with, or a
    head on it (`keras-birds train --embeddings`): then no sound is read, and the results are the same.

    From BirdNET-Analyzer: --min_conf is --threshold, --sf_thresh is --occurrence, --slist is --species, --rtype csv is
    --format birdnet; --overlap and --sensitivity are the same (the latter as of version 2).

    When a recording was made, and where, tells first the file itself (GUANO, WAMD, AudioMoth's comment), then the table
    of sites or deployments, then its name; --lat and --lon come before all. Times are local times of the place: with a
    timezone a clock that tells its offset is converted to it, and one that tells none is taken to run on it; without
    any, clocks count as they are, and UTC stays empty unless the clock tells its offset. What contradicts itself or
    can't be so (1970, 0 N 0 E) stands in the manifest's notes, and is counted in the end.

    \b
    sites.csv      pattern,latitude,longitude: a folder, folders in a row or a file's name,
                   with * and ?; of several that fit a recording the first counts;
                   site (a name) and timezone may stand beside them
    deployments.csv  deployment,site,latitude,longitude,start,end, and pattern, recorder
                   (its serial number) or both; start and end in local time

    \b
    manifest.csv   a row for every recording: status, reason, seconds read; start_time,
                   utc_offset, latitude, longitude, site, deployment, recorder, gain,
                   temperature_c, battery_v, notes; ...
    detections.*   file,channel,start_s,end_s,start_time,start_time_utc,label,
                   scientific_name,common_name,score,model_id,occurrence; or as Raven,
                   Audacity, Kaleidoscope, BirdNET and BirdCLEF write them
    summary.csv    each recording's labels: max, mean of the top 2, windows
    activity.csv   detections by label and hour of day, and activity.png
    detections/    the same rows as Parquet shards; scores/ with --keep-scores

    submission.csv has a row for every window, by --smooth and --file-level where these are given, and with --average
    rank by the order in which a run's folds put all windows of a label. docs/recipe.md tells what each is worth.

    With --no-voices, windows in which people are heard, and those that touch them, have no rows anywhere, and clips of
    `keras-birds segments` end before them; the manifest's voices tells how many.

    Exit code: 0 all scored, 1 some failed or are out of reach (0 with --no-strict), 2 a wrong call.
    """
    connection = connection_to(ray_address)
    from keras_birds.cli.reporting import progress_bar
    from keras_birds.inference.members import MemberScorer
    from keras_birds.results.journal import JOURNAL
    from keras_birds.results.outputs import write_outputs
    from keras_birds.results.results import Results, result_settings

    store = _store_of(inputs, ray_address)
    files, gone = ([], []) if store is not None else find_files(inputs, may_be_gone=(out / JOURNAL).is_file())
    classifier = model.load()
    stored = None if store is None else _stored(store, classifier)
    if stored:
        files, score = stored.files, stored.options(score)
    other_rules |= {"smooth_windows": in_context.smooth_windows, "file_level": in_context.file_level}
    other_rules |= {
        "origins": origin.read(place),
        "occurrence": place.read(classifier, origin.sites is not None),
    }
    read = rules.read(classifier.labels, **other_rules)
    keep_scores = keep_scores or "birdclef" in formats
    members = _members(in_context, model, classifier, formats, rules, stored)
    settings = result_settings(classifier, score, read, keep_scores, members)
    with (
        connection,  # first of all, so that a cluster out of reach leaves no folder behind
        Results(out, classifier.labels, classifier.model_id, read, settings, keep_scores, members) as results,
    ):
        scorer = MemberScorer if members else None
        with scoring(classifier, model, score, ray_address, scorer) as run, progress_bar() as bar:
            counter = _Counter(
                results, len(files), bar, OriginCounter(read.occurrence is not None, origin.table)
            )
            if stored:
                counter.take(stored.score, classifier, results.to_do(files, stored.fingerprint), score)
            else:
                scored_by = scorer(classifier) if scorer else classifier
                counter.take(run, scored_by, results.to_do(files), score)
        manifest = results.finish()
        outputs = write_outputs(results, classifier, formats, per_recording, sample_submission)
    _report(results, manifest, outputs, counter)
    return int(strict and bool(counter.failed or counter.gone or gone))


def _members(
    in_context: ContextChoice,
    model: ModelChoice,
    classifier: "Classifier",
    formats: tuple[str, ...],
    rules: RulesChoice,
    stored: "StoredRecordings | None",
) -> int:
    """How many models' scores are kept, to be averaged by rank in the end; 0 where their mean will do."""
    if not in_context.by_rank(model, classifier):
        return 0
    if formats != ("birdclef",):
        raise click.UsageError(
            "--average rank compares all windows, which only a submission does: pass --format birdclef alone. "
            f"Received: --format {' --format '.join(formats)}"
        )
    if stored or rules.no_voices is not None:
        received = "a store of embeddings" if stored else "--no-voices"
        raise click.UsageError(f"--average rank is for recordings, all windows of them. Received: {received}")
    return len(classifier.engines)


def _store_of(inputs: tuple[str, ...], ray_address: str | None) -> "EmbeddingStore | None":
    """The store of embeddings that INPUTS are; `None` where they are recordings."""
    from keras_birds.embeddings.store import EmbeddingStore, is_store

    if not any(is_store(Path(x)) for x in inputs):
        return None
    if len(inputs) > 1 or ray_address is not None:
        raise click.UsageError(
            "a store of embeddings is scored by itself, without other INPUTS and without --ray"
        )
    return EmbeddingStore(Path(inputs[0]))


def _stored(store: "EmbeddingStore", classifier: "Classifier") -> "StoredRecordings":
    from keras_birds.embeddings.scoring import StoredRecordings

    return StoredRecordings(store, classifier)


class _Counter(Counter):
    """Counts detections, and what is left out of them, as well."""

    detections = unlikely = voices = 0

    def __init__(self, results: "Results", total: int, bar: "Progress", origins: OriginCounter):
        super().__init__(results, total, bar)
        self._origins = origins

    def count(self, recording: "RecordingStatus") -> None:
        """Takes a scored recording."""
        self.detections += recording.detections
        self.voices += recording.voices
        self.unlikely += recording.unlikely
        self._origins.add(recording)

    def new(self) -> str:
        """Detections, and why there aren't more."""
        parts = [f"{self.detections} new detections"]
        if self.unlikely:
            parts.append(f"{self.unlikely} left out as unlikely where and when they were recorded")
        if self.voices:
            parts.append(f"{self.voices} windows left out because of voices")
        return "; ".join([*parts, *self._origins.told()])


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
