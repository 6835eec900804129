"""`keras-birds predict`: score recordings with a trained model."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_birds.cli.options import ChannelType, ModelType, ThresholdType, ray_option

if TYPE_CHECKING:
    from keras_birds.inference.classifier import Classifier

_ANSWER_FORMATS = ("table", "csv", "json")
_FOLDER_FORMATS = ("csv", "json", "parquet", "raven", "audacity", "kaleidoscope", "birdnet", "birdclef")
_SUFFIX_FORMATS = {".csv": "csv", ".json": "json", ".txt": "table"}
_ANSWER_TOP_K = 5
_FOLDER_ONLY = (
    *("per_recording", "threshold", "species", "smooth", "merge", "keep_scores", "time_pattern"),
    *("sample_submission", "ray_address"),
)
_ANSWER_ONLY = ("method", "figure", "frames")
_FOREIGN = ("labels", "sample_rate_hz", "window_s")


_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("inputs", nargs=-1, required=True, metavar="INPUTS...")
@click.option(
    "--model",
    type=ModelType(),
    metavar="PATH|NAME",
    help="A fold's folder, a whole run (the mean of its folds), an .onnx or a .keras file, or a shipped model. "
    "[default: the newest run in runs/, else the shipped model animals]",
)
@click.option(
    "--overlap",
    "overlap_s",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="How much each window shares with the one before.",
)
@click.option(
    "--channel",
    type=ChannelType(),
    default="mix",
    show_default=True,
    metavar="mix|all|N",
    help="The mean over channels, each by itself, or channel N from 1.",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    help="Labels per recording; with --out FOLDER per window. [default: 5; all]",
)
@click.option(
    "--aggregate",
    "method",
    type=click.Choice(("mean", "max")),
    default="mean",
    show_default=True,
    help="A recording's answer over its windows; max finds a single call in a long recording.",
)
@click.option(
    "--figure",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.png",
    help="Draw waveform, mel spectrogram and top labels of one recording.",
)
@click.option(
    "--frames",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.csv",
    help="Score the moments of a clip too, for the top labels: where in it they are. Needs an attention head.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE|FOLDER",
    help="A .csv, .json or .txt file for the answers, or a folder for detections.",
)
@click.option(
    "--format",
    "forms",
    type=click.Choice(("table", *_FOLDER_FORMATS)),
    multiple=True,
    help="Answers: table, csv or json [default: by the name of --out, else table]. Detections: any but table, as "
    "often as you like [default: csv].",
)
@click.option(
    "--per-recording", is_flag=True, help="Folder: one table for each recording instead of one for all."
)
@click.option(
    "--threshold",
    type=ThresholdType(),
    default=0.25,
    show_default=True,
    metavar="P|FILE",
    help="Folder: the least probability of a detection, or a CSV with columns label and threshold.",
)
@click.option(
    "--species",
    type=_EXISTING,
    metavar="FILE",
    help="Folder: detect only these labels or scientific names, one a line.",
)
@click.option(
    "--smooth",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Folder: mean over N neighbouring windows, odd.",
)
@click.option("--merge", is_flag=True, help="Folder: windows of a label that touch become one event.")
@click.option("--keep-scores", is_flag=True, help="Folder: keep every window's scores as float16.")
@click.option(
    "--time-pattern",
    metavar="PATTERN",
    help="Folder: how names tell when a recording began, for instance REC_%Y%m%d_%H%M%S. "
    "[default: the patterns of common recorders]",
)
@click.option(
    "--sample-submission",
    type=_EXISTING,
    metavar="FILE",
    help="Folder, --format birdclef: the competition's file, for the order of columns and rows that have no scores.",
)
@click.option(
    "--engine", type=click.Choice(("onnx", "keras")), help="[default: onnx, unless --model is a .keras file]"
)
@click.option(
    "--calibrated",
    is_flag=True,
    help="Scores as `keras-birds calibrate RUN` found them to mean; --threshold RUN/calibration/thresholds.csv fits.",
)
@click.option("--provider", metavar="NAME", help="ONNX Runtime on cpu, cuda, ... [default: cuda where it is]")
@click.option(
    "--decoder",
    type=click.Choice(("soundfile", "tfio")),
    help="What reads the files. [default: as the model was trained]",
)
@click.option("--workers", type=click.IntRange(min=1), help="Threads that compute. [default: all processors]")
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Windows at a time. [default: the model's fastest]"
)
@click.option(
    "--labels",
    type=_EXISTING,
    metavar="FILE",
    help="Another's ONNX model that takes sound: its labels, one a line.",
)
@click.option(
    "--sample-rate", "sample_rate_hz", type=click.IntRange(min=1), metavar="HZ", help="... its rate."
)
@click.option(
    "--window-s", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="... its window."
)
@click.option(
    "--output",
    type=click.Choice(("logits", "probabilities")),
    default="logits",
    show_default=True,
    help="... what it gives.",
)
@ray_option("recordings")
@click.option("--strict/--no-strict", default=True, show_default=True, help="Exit code 1 if any file fails.")
@click.pass_context
def predict(
    ctx: click.Context,
    inputs: tuple[str, ...],
    model: Path | None,
    overlap_s: float,
    channel: str | int,
    top_k: int | None,
    method: str,
    figure: Path | None,
    frames: Path | None,
    out: Path | None,
    forms: tuple[str, ...],
    per_recording: bool,
    threshold: float | Path,
    species: Path | None,
    smooth: int,
    merge: bool,
    keep_scores: bool,
    time_pattern: str | None,
    sample_submission: Path | None,
    engine: str | None,
    calibrated: bool,
    provider: str | None,
    decoder: str | None,
    workers: int | None,
    batch_size: int | None,
    labels: Path | None,
    sample_rate_hz: int | None,
    window_s: float | None,
    output: str,
    ray_address: str | None,
    strict: bool,
) -> None:
    """Score recordings: one answer for each, or with --out FOLDER all detections of a disk of them.

    \b
    keras-birds predict clip.ogg                                  # a table of the top 5 labels
    keras-birds predict clip.wav --model runs/all --figure clip.png
    keras-birds predict recordings/ --aggregate max --out answers.csv
    keras-birds predict /mnt/disk --overlap 2.5 --out results     # detections; the same command resumes
    keras-birds predict 'plots/*/2025*.wav' --out results --format raven --format csv
    find . -name '*.flac' -print0 | keras-birds predict - --out results
    keras-birds predict s3://bucket/season1/ --out results
    keras-birds predict /shared/season1 --out results --ray auto  # on a cluster

    INPUTS are files, folders (searched at any depth), globs, a .csv list with a column file, path or filename,
    URLs, and - for a list on stdin. Each recording is cut into the model's clips; the last one is filled by
    repeating what it holds. A file that can't be read is named on stderr with its reason, never scored, and the
    others go on.

    \b
    Answers (no --out, or a file):
      csv   a row for each file and rank:
            file,rank,label,scientific_name,common_name,class_name,score
      json  a list of files with status, reason, seconds, model_id and top
    A folder (--out results):
      manifest.csv   a row for every input: status, reason, seconds read, ...
      detections.*   file,channel,start_s,end_s,start_time,label,scientific_name,
                     common_name,score,model_id; or as Raven, Audacity, Kaleidoscope,
                     BirdNET and BirdCLEF write them
      summary.csv    each recording's labels: max, mean of the top 2, windows
      activity.csv   detections by label and hour of day, and activity.png
      detections/    the same rows as Parquet shards; scores/ with --keep-scores

    Exit code: 0 all scored, 1 some failed (0 with --no-strict), 2 a wrong call.
    """
    in_folder = _is_folder(out)
    _check_mode(ctx, in_folder, forms)
    _check_place(figure, "--figure")
    _check_place(frames, "--frames")
    if frames is not None and calibrated:
        raise click.BadParameter("gives scores as they are, without --calibrated", param_hint="--frames")
    if figure is not None and figure.suffix.lower() != ".png":
        raise click.BadParameter(f"must end in .png. Received: {figure}", param_hint="--figure")
    if not in_folder:
        _check_place(out, "--out")

    if ray_address is not None:
        from keras_birds.distributed.cluster import check_address

        check_address(ray_address)
    from keras_birds.audio.files import find_inputs
    from keras_birds.errors import DataError
    from keras_birds.inference.scorer import ScoreOptions

    try:
        names = find_inputs(inputs, sys.stdin.buffer, _warn)
    except DataError as error:
        raise click.BadParameter(str(error), param_hint="INPUTS") from None
    classifier = _load(model, engine, calibrated, decoder, provider, labels, sample_rate_hz, window_s, output)
    if model is None:
        click.echo(_describe_choice(classifier), err=True)
    if classifier.calibration is not None:
        click.echo(f"Scores are calibrated ({classifier.calibration.method})", err=True)
    options = ScoreOptions(overlap_s, channel, workers, batch_size)
    if out is not None and in_folder:
        from keras_birds.cli.predict_folder import FolderRequest, predict_into_folder

        request = FolderRequest(
            out=out,
            forms=forms or ("csv",),
            per_recording=per_recording,
            threshold=threshold,
            species=species,
            top_k=top_k,
            smooth_windows=smooth,
            merge=merge,
            keep_scores=keep_scores,
            time_pattern=time_pattern,
            sample_submission=sample_submission,
            ray_address=ray_address,
            provider=provider,
        )
        failed = predict_into_folder(classifier, list(names), options, request)
    else:
        from keras_birds.cli.predict_answers import predict_answers

        form = forms[0] if forms else (_SUFFIX_FORMATS.get(out.suffix.lower(), "table") if out else "table")
        failed = predict_answers(
            classifier, list(names), options, method, top_k or _ANSWER_TOP_K, form, out, figure, frames
        )
    if failed and strict:
        ctx.exit(1)


def _describe_choice(classifier: "Classifier") -> str:
    from keras_birds.models.bundled import bundled_name
    from keras_birds.run_layout import RUNS_DIR

    engine = classifier.engines[0]
    name = bundled_name(engine.path)
    if not name:
        return f"Model: {classifier.model_id}"
    return (
        f"Model: {name}, bundled, as there is no trained run in {RUNS_DIR}/: {len(classifier.labels)} labels, licence "
        f"{engine.metadata.licence}; `keras-birds info {name}` says more"
    )


def _is_folder(out: Path | None) -> bool:
    """Whether `--out` asks for detections: a folder, or a new name that isn't a table's."""
    if out is None or out.suffix.lower() in _SUFFIX_FORMATS:
        return out is not None and out.is_dir()
    return out.is_dir() or not out.exists()


def _check_mode(ctx: click.Context, in_folder: bool, forms: tuple[str, ...]) -> None:
    for names, where in ((_ANSWER_ONLY, "answers, without"), (_FOLDER_ONLY, "detections, with")):
        if (names == _FOLDER_ONLY) != in_folder:
            for option in ctx.command.params:
                given = ctx.get_parameter_source(option.name or "") == click.core.ParameterSource.COMMANDLINE
                if option.name in names and given:
                    raise click.BadParameter(f"is for {where} --out FOLDER", param_hint=option.opts[0])
    allowed = _FOLDER_FORMATS if in_folder else _ANSWER_FORMATS
    wrong = [x for x in forms if x not in allowed]
    if wrong or (not in_folder and len(forms) > 1):
        what = (
            f"be of {', '.join(allowed)} with --out FOLDER"
            if in_folder
            else f"be one of {', '.join(allowed)}"
        )
        hint = "" if in_folder else "; for the others pass --out FOLDER"
        raise click.BadParameter(f"must {what}. Received: {', '.join(forms)}{hint}", param_hint="--format")
    foreign = [bool(ctx.params[x]) for x in _FOREIGN]
    if any(foreign) and not all(foreign):
        raise click.UsageError(
            "--labels, --sample-rate and --window-s must be given together, for a model of others"
        )
    if all(foreign) and ctx.params["model"] is None:
        raise click.UsageError("--labels, --sample-rate and --window-s need --model FILE.onnx")


def _check_place(path: Path | None, option: str) -> None:
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}. Received: {path}", param_hint=option)


def _load(
    model: Path | None,
    engine: str | None,
    calibrated: bool,
    decoder: str | None,
    provider: str | None,
    labels: Path | None,
    sample_rate_hz: int | None,
    window_s: float | None,
    output: str,
) -> "Classifier":
    from keras_birds.inference.classifier import Classifier, load

    if labels is None or model is None or sample_rate_hz is None or window_s is None:
        return load(model, engine=engine, decoder=decoder, provider=provider, calibrated=calibrated)
    from keras_birds.models.waveform_engine import WaveformEngine, read_label_lines

    foreign = WaveformEngine(model, read_label_lines(labels), sample_rate_hz, window_s, output, provider)
    return Classifier([foreign], decoder, calibrated)


def _warn(name: str, reason: str) -> None:
    from keras_birds.text import printable

    click.echo(f"Warning: {printable(name)}: {reason}", err=True)
