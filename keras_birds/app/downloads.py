"""The detections as files, by the same writers as `keras-birds detect --format`."""

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import streamlit as st

from keras_birds.app.analysis import Analysis
from keras_birds.data.reviews import Review, write_reviews
from keras_birds.inference.classifier import Classifier
from keras_birds.results.detections import detection_schema
from keras_birds.results.writers.tables import write_audacity, write_csv, write_raven


def buttons(
    classifier: Classifier,
    analysis: Analysis,
    detections: pd.DataFrame,
    reviews: dict[Any, Review],
    is_kept: bool,
) -> None:
    """Buttons for CSV, Raven and Audacity, and for the reviews.

    Args:
        classifier: the model.
        analysis: the recording.
        detections: as the table shows them.
        reviews: of the recording.
        is_kept: whether the reviews stay beside the recording anyway.
    """
    import pyarrow as pa

    table = pa.Table.from_pandas(detections, preserve_index=False).select(detection_schema().names)
    table = table.cast(detection_schema())
    found = [(analysis.recording, table)]
    mel = classifier.mel
    stem, file_name = Path(analysis.recording.file).stem, Path(analysis.recording.file).name

    def text(write: Callable[[TextIO], None]) -> bytes:
        stream = StringIO()
        write(stream)
        return stream.getvalue().encode("utf-8", "surrogateescape")

    files = {
        "CSV": (f"{stem}.detections.csv", text(lambda x: write_csv(found, x))),
        "Raven": (
            f"{stem}.selections.txt",
            text(lambda x: write_raven(found, x, mel.f_min_hz, mel.f_max_hz)),
        ),
        "Audacity": (f"{stem}.labels.txt", text(lambda x: write_audacity(found, x))),
    }
    places = st.columns(len(files) + 1)
    for place, (name, (file, data)) in zip(places, files.items(), strict=False):
        place.download_button(
            f"Detections for {name}" if name != "CSV" else "Detections as CSV",
            data,
            file,
            key=f"download-{name}",
            on_click="ignore",
            width="stretch",
        )
    places[-1].download_button(
        f"Reviews ({len(reviews)})",
        text(lambda x: write_reviews(x, [replace(y, file=file_name) for y in reviews.values()])),
        f"{file_name}.reviews.csv",
        key="download-reviews",
        on_click="ignore",
        disabled=not reviews,
        help="They lie beside the recording already." if is_kept else "They go with this session: keep them.",
        width="stretch",
    )
