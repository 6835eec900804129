"""`keras-birds evaluate --annotations`: a model, or detections, against what people marked."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_birds.cli.context_options import ContextChoice
from keras_birds.cli.options import ModelChoice, resolve_data_dir, warn
from keras_birds.cli.reporting import make_reporter, text_table
from keras_birds.text import printable, relative_name

if TYPE_CHECKING:
    from keras_birds.config import Config
    from keras_birds.evaluation.evaluate_annotated import AnnotatedEvaluation
    from keras_birds.evaluation.events import EventRules

_LISTED = 20


def evaluate_annotated(
    detections: Path | None,
    model: ModelChoice,
    data_dir: Path | None,
    annotations: Path,
    rules: "EventRules",
    config: "Config",
    out: Path | None,
    in_context: ContextChoice,
) -> bool:
    """Judges, writes the report and tells; whether some recordings failed."""
    from keras_birds.data.annotated import recordings_of
    from keras_birds.data.annotations import read_annotations
    from keras_birds.data.soundscape_folder import source_names
    from keras_birds.evaluation.evaluate_annotated import evaluate_scores, write_annotated_report
    from keras_birds.evaluation.evaluate_model import learned_recordings

    with make_reporter() as reporter:
        if detections is None:
            root = resolve_data_dir(data_dir, config)
            found = read_annotations(annotations, recordings_of(root, config.data)[1])
            for note in found.notes:
                warn(str(annotations), note)
            context, classifier = in_context.read(), model.load()
            by_rank = in_context.by_rank(model, classifier)
            paths = [relative_name(x, root) for x in found.recordings]
            models, sources = [x.path for x in classifier.engines], source_names(annotations)
            for what, names in (("recordings", paths), ("recordings that these were made of", sources)):
                if learned := learned_recordings(models, names):
                    click.echo(
                        f"Warning: {learned} of {len(names)} {what} have the path of one that the model was trained "
                        "on: figures may be too good. `keras-birds evaluate RUN` has those of others",
                        err=True,
                    )
            evaluation = evaluate_scores(classifier, found, annotations, rules, reporter, context, by_rank)
        else:
            evaluation = _judge_detections(detections, data_dir, annotations, rules, config, in_context)
    out = out or Path(f"{annotations.resolve().stem}-evaluation")
    out.mkdir(parents=True, exist_ok=True)
    write_annotated_report(evaluation, out)
    click.echo(_describe(evaluation))
    click.echo(f"Report: {out}")
    return bool(evaluation.failed)


def _judge_detections(
    detections: Path,
    data_dir: Path | None,
    annotations: Path,
    rules: "EventRules",
    config: "Config",
    in_context: ContextChoice,
) -> "AnnotatedEvaluation":
    from keras_birds.data.annotated import recordings_of
    from keras_birds.evaluation.evaluate_annotated import evaluate_detections
    from keras_birds.results.journal import JOURNAL
    from keras_birds.run_layout import CONFIG

    if in_context.is_given:
        raise click.UsageError(
            f"--smooth, --file-level and --average go with --model. Received: {detections}, whose scores are made"
        )
    if (detections / CONFIG).is_file():
        raise click.UsageError(
            f"a run is judged as a model: --model {detections} --data DIR. Received: {detections}"
        )
    is_results = (detections / JOURNAL).is_file()
    if not is_results and data_dir is None:
        raise click.UsageError(
            f"tables of detections go with --data, their recordings. Received: {detections} without it"
        )
    if is_results and data_dir is not None:
        raise click.UsageError(
            f"a folder of results lists its own recordings: leave out --data. Received: --data {data_dir}"
        )
    recordings = None if data_dir is None else recordings_of(data_dir, config.data)[1]
    return evaluate_detections(detections, annotations, recordings, rules)


def _describe(evaluation: "AnnotatedEvaluation") -> str:
    rows: list[tuple[object, ...]] = []
    is_model = bool(evaluation.windows)
    heading = ("label", "annotations", "precision", "recall", "AP", "F1")
    by_window = ("window AUC", "window AP")
    for x in evaluation.labels.head(_LISTED).to_dict("records"):
        of_events = (x["event_precision"], x["event_recall"], x["event_average_precision"], x["event_f1"])
        shown = (printable(x["label"]), x["annotations"], *map(float, of_events))
        rows.append((*shown, x["auc"], x["average_precision"]) if is_model else shown)
    events = evaluation.events
    total = ("all", events.annotations, events.precision, events.recall, events.average_precision, events.f1)
    rows.append((*total, evaluation.macro_auc.value, evaluation.cmap) if is_model else total)
    lines = [text_table(heading + by_window if is_model else heading, *rows)]
    if (more := len(evaluation.labels) - _LISTED) > 0:
        lines.append(f"{more} more labels, in labels.csv")
    judged = f"{evaluation.recordings} recordings"
    judged += f", {evaluation.windows} windows: macro AUC {evaluation.macro_auc}" if is_model else ""
    lines.append(judged)
    if unknown := evaluation.unknown:
        names = ", ".join(printable(x) for x in list(unknown)[:_LISTED])
        lines.append(f"Left out: {sum(unknown.values())} annotations of labels that aren't known: {names}")
    if evaluation.failed:
        lines.append(f"Left out: {len(evaluation.failed)} recordings, see report.json")
    return "\n".join(lines)
