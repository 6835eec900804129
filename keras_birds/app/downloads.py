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
    """Buttons for CSV, Raven and Audacity, and for the reviews, which may stay beside the recording anyway."""
    import pyarrow as pa

    table = pa.Table.from_pandas(detections, preserve_index=False).select(detection_schema().names)
    table = table.cast(detection_schema())
    found, file = [(analysis.found.recording, table)], Path(analysis.found.recording.file)
    bounds_hz = classifier.mel.f_min_hz, classifier.mel.f_max_hz

    def text(write: Callable[[TextIO], None]) -> bytes:
        stream = StringIO()
        write(stream)
        return stream.getvalue().encode("utf-8", "surrogateescape")

    files = {
        "as CSV": ("detections.csv", text(lambda x: write_csv(found, x))),
        "for Raven": ("selections.txt", text(lambda x: write_raven(found, x, *bounds_hz))),
        "for Audacity": ("labels.txt", text(lambda x: write_audacity(found, x))),
    }
    style: Any = {"on_click": "ignore", "width": "stretch"}
    places = st.columns(len(files) + 1)
    for place, (name, (ending, data)) in zip(places, files.items(), strict=False):
        key = f"download-{name.split()[1]}"
        place.download_button(f"Detections {name}", data, f"{file.stem}.{ending}", key=key, **style)
    places[-1].download_button(
        f"Reviews ({len(reviews)})",
        text(lambda x: write_reviews(x, [replace(y, file=file.name) for y in reviews.values()])),
        f"{file.name}.reviews.csv",
        key="download-reviews",
        disabled=not reviews,
        help="They lie beside the recording already." if is_kept else "They go with this session: keep them.",
        **style,
    )
