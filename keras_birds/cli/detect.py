"""`keras-birds detect`: all detections of many recordings in a folder, resumable."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_birds.cli.batch import connection_to
from keras_birds.cli.context_options import ContextChoice, context_options
from keras_birds.cli.detecting import (
    DetectionCounter,
    LoadedModel,
    Task,
    Where,
    schedule_options,
    score_each,
)
from keras_birds.cli.options import (
    COUNT,
    EXISTING_FILE,
    NEW_FOLDER,
    ModelChoice,
    find_files,
    inputs_argument,
    models_options,
    ray_option,
    score_options,
    strict_option,
)
from keras_birds.cli.origin_options import OriginChoice, origin_options
from keras_birds.cli.reporting import report
from keras_birds.cli.rules_options import PlaceChoice, RulesChoice, place_options, rules_options
from keras_birds.text import printable

if TYPE_CHECKING:
    from keras_birds.audio.schedule import Schedule
    from keras_birds.embeddings.scoring import StoredRecordings
    from keras_birds.embeddings.store import EmbeddingStore
    from keras_birds.inference.classifier import Classifier
    from keras_birds.inference.scorer import ScoreOptions
    from keras_birds.results.outputs import Outputs
    from keras_birds.results.results import Results
    from keras_birds.results.writers.submission import Submission

_FORMATS = ("csv", "json", "parquet", "raven", "audacity", "kaleidoscope", "birdnet", "birdclef")


@click.command()
@inputs_argument
@click.option(
    "--out", required=True, type=NEW_FOLDER, help="Folder of results: a new one, or one to go on with."
)
@models_options
@click.option(
    "--agree",
    type=click.IntRange(min=2),
    metavar="N",
    help="Keep only what N of several models say.",
)
@score_options
@rules_options
@place_options
@origin_options
@schedule_options
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
    models: list[ModelChoice],
    agree: int | None,
    score: "ScoreOptions",
    rules: RulesChoice,
    place: PlaceChoice,
    origin: OriginChoice,
    schedule: "Schedule | None",
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
    keras-birds detect /mnt/disk --out nights --timezone UTC --sites sites.csv --when dusk-dawn --sample 1/10
    keras-birds detect /mnt/disk --out both --model birdnet --model runs/mine --agree 2
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

    --when scores only what was recorded at that time: windows whose middle lies in it. By the sun at the recording's
    place: dusk-dawn (6 degrees and more below the horizon: from the end of civil twilight to its beginning), night
    (sunset to sunrise), day, dawn (rising from 12 degrees below the horizon to 6 above), dusk (falling from there); or
    by the local clock, 22:00-04:00. --sample 1/10 scores the first minute of every ten since midnight, so that
    recorders agree; of a recording whose time isn't known, of its own. A recording of which nothing is wanted isn't
    decoded, and its status is skipped. One whose time, place or (for the sun) timezone isn't known fails: nothing is
    guessed. Of WAV and FLAC only what is wanted is read. The manifest's scored_s is what counts as effort.

    Several --model score one after the other, each into OUT/models/0, 1, ..., a folder of results of its own. Labels
    are matched by scientific name and synonyms. Detections of one species agree where at least half of the shorter one
    lies in the other. A detection of the first model takes up what agrees with it: one row with both scores, score_1
    and score_2. What no model before says has a row of its own; an empty score is below that model's threshold.
    --agree 2 keeps what two say.

    \b
    sites.csv      pattern,latitude,longitude: a folder, folders in a row or a file's name,
                   with * and ?; of several that fit a recording the first counts;
                   site (a name) and timezone may stand beside them; leaves out what
                   doesn't occur there, as --lat and --lon do
    deployments.csv  deployment,site,latitude,longitude,start,end, and pattern, recorder
                   (its serial number) or both; start and end in local time;
                   leaves out what doesn't occur there only with --occurrence

    \b
    manifest.csv   a row for every recording: status, reason, seconds read; start_time,
                   utc_offset, latitude, longitude, site, deployment, recorder, gain,
                   temperature_c, battery_v, notes; ...
    detections.*   file,channel,start_s,end_s,start_time,start_time_utc,label,
                   scientific_name,common_name,score,model_id,occurrence; or as Raven,
                   Audacity, Kaleidoscope, BirdNET and BirdCLEF write them; of several
                   models score_1,score_2,... as well
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
    from keras_birds.inference.plan import Plan
    from keras_birds.results.joined import JoinedResults
    from keras_birds.results.journal import JOURNAL
    from keras_birds.results.outputs import write_outputs
    from keras_birds.results.results import result_settings

    _check_several(models, agree, formats, in_context, inputs)
    if schedule and "birdclef" in formats:
        raise click.UsageError("--format birdclef has a row for every window: leave out --when and --sample")
    store = _store_of(inputs, ray_address)
    files, gone = ([], []) if store is not None else find_files(inputs, may_be_gone=(out / JOURNAL).is_file())
    other_rules |= {"smooth_windows": in_context.smooth_windows, "file_level": in_context.file_level}
    where = Where(place, origin, schedule)
    other_rules |= {"origins": origin.read(place)}  # once for all models, as it warns
    loaded = [LoadedModel.load(x, rules, where, **other_rules) for x in models]
    first = loaded[0]
    stored = None if store is None else _stored(store, first.classifier)
    if stored:
        files, score = stored.files, stored.options(score)
    if schedule:
        score = replace(score, plan=Plan(schedule, first.rules.origins.of))
    members = _members(in_context, first, formats, rules, stored)
    task = Task(files, score, ray_address, origin.table, stored, members)
    keep_scores = keep_scores or "birdclef" in formats
    settings = [result_settings(x.classifier, score, x.rules, keep_scores, members) for x in loaded]
    # The connection first of all, so that a cluster out of reach leaves no folder behind.
    with connection, _open_results(out, loaded, settings, agree, members) as results:
        if isinstance(results, JoinedResults):
            counters = score_each(results, loaded, settings, task)
        else:
            counters = [first.score_into(results, task)]
        manifest = results.finish()
        outputs = write_outputs(results, first.classifier, formats, per_recording, sample_submission)
    _report(results, manifest, outputs, counters if len(loaded) == 1 else ())
    return int(strict and bool(gone or any(x.failed or x.gone for x in counters)))


def _open_results(
    out: Path,
    models: Sequence[LoadedModel],
    settings: Sequence[dict[str, Any]],
    agree: int | None,
    members: int,
) -> "Results":
    """The folder of results: of the model, or of several models' joined results."""
    from keras_birds.results.agreement import CommonLabels
    from keras_birds.results.joined import JoinedResults
    from keras_birds.results.results import Results

    first = models[0]
    if len(models) > 1:
        common = CommonLabels([x.classifier.labels for x in models])
        return JoinedResults(out, common, first.rules, settings, agree or 1)
    labels, keep_scores = first.classifier.labels, settings[0]["keep_scores"]
    return Results(out, labels, first.classifier.model_id, first.rules, settings[0], keep_scores, members)


def _check_several(
    models: Sequence[ModelChoice],
    agree: int | None,
    formats: tuple[str, ...],
    in_context: ContextChoice,
    inputs: tuple[str, ...],
) -> None:
    """Refuses what several models can't do together, and what one can't."""
    from keras_birds.embeddings.store import is_store

    if agree is not None and agree > len(models):
        raise click.UsageError(f"--agree must be at most the number of --model. Received: --agree {agree}")
    if len(models) == 1:
        return
    wrong = {
        "--format birdclef": "birdclef" in formats,
        "--average rank": in_context.average != "mean",
        "a store of embeddings, which is of one model": any(is_store(Path(x)) for x in inputs),
    }
    if received := [x for x, is_wrong in wrong.items() if is_wrong]:
        raise click.UsageError(
            f"--model must be given once. Received: {len(models)} of them and {received[0]}"
        )


def _members(
    in_context: ContextChoice,
    model: LoadedModel,
    formats: tuple[str, ...],
    rules: RulesChoice,
    stored: "StoredRecordings | None",
) -> int:
    """How many models' scores are kept, to be averaged by rank in the end; 0 where their mean will do."""
    if not in_context.by_rank(model.choice, model.classifier):
        return 0
    if formats != ("birdclef",):
        raise click.UsageError(
            "--average rank compares all windows, which only a submission does: pass --format birdclef alone. "
            f"Received: --format {' --format '.join(formats)}"
        )
    if stored or rules.no_voices is not None:
        received = "a store of embeddings" if stored else "--no-voices"
        raise click.UsageError(f"--average rank is for recordings, all windows of them. Received: {received}")
    return len(model.classifier.engines)


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


def _report(
    results: "Results", manifest: Path, outputs: "Outputs", counters: Sequence[DetectionCounter]
) -> None:
    """Draws the activity, and tells what was done and where it is."""
    files = [manifest, *outputs.files]
    if outputs.activity.detections.any():
        from keras_birds.plots.activity import activity_figure

        files.append(results.folder / "activity.png")
        activity_figure(outputs.activity, files[-1])
    gaps = _describe_gaps(outputs.submission) if outputs.submission else ()
    report([*(x.summary() for x in counters), *gaps], files)


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
