"""Writes an evaluation as one HTML file that needs no network, as JSON and as a table of labels."""

import base64
import io
import math
from importlib.resources import files
from pathlib import Path

from matplotlib.figure import Figure

import keras_birds
from keras_birds.atomic import atomic_path, write_json
from keras_birds.audio.decode import decode_clip, read_part
from keras_birds.data.catalog import window_of
from keras_birds.errors import AudioError
from keras_birds.evaluation.bootstrap import SAMPLES
from keras_birds.evaluation.calibrate import cross_calibrated
from keras_birds.evaluation.evaluate import Evaluation
from keras_birds.plots.class_distribution import class_distribution
from keras_birds.plots.figure import png
from keras_birds.plots.reliability import reliability, reliability_figure
from keras_birds.plots.report import auc_against_count_figure, confusion_figure, curves_figure

HTML, JSON, LABELS = "report.html", "report.json", "labels.csv"


def write_report(evaluation: Evaluation, out: Path) -> Path:
    """Writes `report.html`, which it returns, `report.json` and `labels.csv` into an existing folder.

    Each is written whole or not at all; figures and clips are inside the HTML file.
    """
    write_json(out / JSON, evaluation.to_dict())
    with atomic_path(out / LABELS) as temporary:
        evaluation.labels.to_csv(temporary, index=False)
    with atomic_path(out / HTML) as temporary:
        temporary.write_text(_html(evaluation), encoding="utf-8", errors="replace")
    return out / HTML


def _html(evaluation: Evaluation) -> str:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    labels = evaluation.labels.to_dict("records")
    return template.render(
        vars(evaluation),
        name=evaluation.scores.run.resolve().name,
        version=keras_birds.__version__,
        samples=SAMPLES,
        groups=evaluation.groups.to_dict("records"),
        labels=labels,
        names={x["label"]: x["common_name"] or x["scientific_name"] or x["label"] for x in labels},
        clips=_clips(evaluation),
        figures=_figures(evaluation),
        calibration=evaluation.scores.calibration,
        number=lambda value, digits=4: f"{value:.{digits}f}" if math.isfinite(value) else "–",
        signed=lambda value: f"{value:+.4f}",
    )


def _figures(evaluation: Evaluation) -> dict[str, str]:
    scores = evaluation.scores
    curves = {"scores": reliability(scores.targets, scores.scores)}
    calibration = scores.calibration
    if calibration is not None:
        calibrated = cross_calibrated(scores, calibration.method)
        curves[f"calibrated ({calibration.method})"] = reliability(scores.targets, calibrated)
    return {
        "curves": _png(curves_figure({x.fold: (x.history, x.kept_epoch) for x in scores.folds})),
        "labels": _png(auc_against_count_figure(evaluation.labels)),
        "confusions": _png(confusion_figure(scores.targets, scores.scores, scores.labels)),
        "reliability": _png(reliability_figure(curves, "All labels, out of fold")),
        "classes": "" if evaluation.catalog is None else _png(class_distribution(evaluation.catalog)),
    }


def _clips(evaluation: Evaluation) -> dict[str, str]:
    """The middle of each confused recording as OGG; empty where it can't be read."""
    import soundfile

    clips: dict[str, str] = {}
    for confusion in evaluation.confusions:
        clips[confusion.path] = ""
        if evaluation.catalog is None:
            continue
        audio = evaluation.scores.config.audio.model_copy(update={"crop": "center"})
        window, root = window_of(confusion.path), evaluation.catalog.root
        try:
            samples = (
                read_part(root / window[0], *window[1:], audio)
                if window
                else decode_clip(root / confusion.path, audio).samples
            )
        except AudioError:
            continue  # it was readable in training; the row tells its name
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, audio.sample_rate_hz, format="OGG", subtype="VORBIS")
        clips[confusion.path] = _data_uri("audio/ogg", buffer.getvalue())
    return clips


def _png(figure: Figure) -> str:
    return _data_uri("image/png", png(figure))


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
