"""What the first visitor would wait for: imports, fonts, and what ONNX Runtime does once."""

from contextlib import closing, suppress

import keras_birds
from keras_birds.app import charts, review  # noqa: F401
from keras_birds.app.analysis import analyse, detections_table, top_table
from keras_birds.app.session import SessionFolder
from keras_birds.audio.decode import read_part
from keras_birds.errors import KerasBirdsError
from keras_birds.results.writers import tables  # noqa: F401


def warm_up(model: str | None) -> None:
    """Does once what the page does: scores the example and draws it; `None` is the newest run, or the shipped one."""
    folder = SessionFolder()
    # What is wrong with a model is told on the page, where another can be chosen.
    with closing(folder), suppress(KerasBirdsError):
        classifier = keras_birds.load(model)
        analysis = analyse(classifier, folder.example(), "example", 0.0, 60, lambda *_: None)
        found = detections_table(classifier, analysis, 0.5, set(classifier.labels), merge=False)
        top = top_table(classifier, analysis.found.scores, 5, "mean", 0.5)
        samples = read_part(folder.example(), 0, 30, classifier.audio.sample_rate_hz)
        charts.part_picture(samples, 0.0, classifier, found, None)
        for chart in (charts.bars(top), charts.timeline(analysis.found.start_s, {}, 0.5, 30)):
            chart.to_dict()
