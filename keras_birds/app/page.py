"""The page that `keras-birds app` serves: Streamlit runs this file for each visitor and after each click."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
import soundfile
import streamlit as st

from keras_birds.app import charts, find, review
from keras_birds.app.analysis import Analysis, analyse, detections_table, top_table
from keras_birds.app.controls import Controls, sidebar
from keras_birds.app.recording import Recording, choose
from keras_birds.app.session import plain
from keras_birds.audio.decode import read_part
from keras_birds.config import AudioConfig
from keras_birds.data.reviews import reviews_path, write_reviews
from keras_birds.errors import KerasBirdsError
from keras_birds.inference.classifier import Classifier
from keras_birds.inference.scorer import RecordingStatus
from keras_birds.results.detections import detection_schema
from keras_birds.results.report import describe_length, describe_origin
from keras_birds.results.voices import voice_columns, without_voices
from keras_birds.results.writers.tables import write_audacity, write_csv, write_raven

PART_S = 30.0
"""Length of what is drawn closely and played, as the model hears it; shorter recordings are shown whole."""
_ULTRASOUND_HZ = 24_000
_KEPT_ANALYSES = 4
_LINES = 8


def main() -> None:
    """Draws the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    for name in ("folder", "embeddings", "reviews"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--max-minutes", type=float, default=180.0)
    options = parser.parse_args()
    st.set_page_config("keras-birds", "🐦", layout="wide")
    st.title("keras-birds", anchor=False)
    try:
        if options.embeddings and _page() == "Find":
            find.show(
                options.embeddings,
                options.reviews,
                options.model,
                lambda: choose(options.folder, options.max_minutes),
            )
            return
        classifier, controls = sidebar(options.model)
        recording = choose(options.folder, options.max_minutes)
        if recording is None:
            return
        analysis = _analysed(classifier, recording, controls.overlap_s, 60 * options.max_minutes)
        _show(classifier, controls, recording, analysis)
    except (KerasBirdsError, OSError) as error:
        st.error(plain(str(error)), icon="⚠️")


def _page() -> str:
    """Which page is open; it stands in the address."""
    style: Any = {"bind": "query-params", "label_visibility": "collapsed"}
    return st.segmented_control("Page", ("Listen", "Find"), default="Find", key="page", **style) or "Find"


def _analysed(classifier: Classifier, recording: Recording, overlap_s: float, max_s: float) -> Analysis:
    """Scored once for each recording, model and overlap; the last few are kept."""
    kept: dict[Any, Analysis] = st.session_state.setdefault("analyses", {})
    key = (recording.key, classifier.model_id, str(classifier.engines[0].path), overlap_s)
    if key not in kept:
        bar = st.progress(0.0, "Reading")
        try:
            arguments = classifier, recording.path, recording.name, overlap_s, max_s
            kept[key] = analyse(*arguments, lambda x, y: bar.progress(y, f"{x} {y:.0%}" if y else x))
        finally:
            bar.empty()
        while len(kept) > _KEPT_ANALYSES:
            del kept[next(iter(kept))]
    return kept[key]


def _show(classifier: Classifier, controls: Controls, recording: Recording, analysis: Analysis) -> None:
    if controls.no_voices is not None:
        columns = voice_columns(classifier.labels)
        analysis = replace(analysis, found=without_voices(analysis.found, columns, controls.no_voices))
    heard = analysis.found.recording
    heard = replace(heard, origin=controls.origins.of(recording.name, heard.recorder))
    analysis = replace(analysis, found=replace(analysis.found, recording=heard))
    st.subheader(plain(Path(recording.name).name), anchor=False)
    channels = f"{heard.channels} channel{'s' * (heard.channels != 1)}"
    st.caption(f"{describe_length(heard)}, {heard.sample_rate_hz:,} Hz, {channels}")
    if said := describe_origin(heard):
        st.caption(plain(said))
    if heard.reason:
        status = "" if heard.status == "ok" else f"{heard.status}: "
        st.warning(plain(status + heard.reason), icon="⚠️")
    if heard.voices:
        windows = f"{heard.voices} window{'s' * (heard.voices != 1)}"
        st.caption(f"{windows} left out because of voices, and silent here")
    scores, only = analysis.found.scores, set(controls.only) or set(classifier.labels)
    if not len(scores):
        st.info("No window is left.")
        return
    found = controls.occurrence and controls.occurrence.of(heard.origin)
    if found:
        only &= {x for x, is_likely in zip(classifier.labels, found.allowed, strict=True) if is_likely}
        scores = np.where(found.allowed, scores, 0)
    rules = controls.threshold, only, controls.merge, controls.occurrence
    detections = detections_table(classifier, analysis, *rules)
    reviews = review.read(reviews_path(recording.path))
    # What was looked at in another recording says nothing of this one.
    if st.session_state.get("focus_key") != recording.key:
        for name in ("focus", "part", "play", "moved"):
            st.session_state.pop(name, None)
        st.session_state["focus_key"] = recording.key

    top = top_table(classifier, scores, controls.top_k, controls.method, controls.threshold)
    left, right = st.columns((2, 1))
    with left:
        _show_top(top)
    right.altair_chart(charts.bars(top), key="bars")
    length_s = PART_S * classifier.audio.speed
    part_s = _part(analysis, length_s)
    if analysis.envelope.seconds > length_s:
        st.altair_chart(charts.outline(analysis.envelope, part_s), key="outline")
    _show_timeline(classifier, controls, analysis, top, only)
    _show_part(classifier, recording, part_s, detections, heard)
    _show_detections(detections, reviews)
    if focus := st.session_state.get("focus"):
        review.panel(classifier, recording.path, focus, detections, reviews, controls.reviewer, _look_at)
    _show_downloads(classifier, analysis, detections, reviews, recording.is_kept)


def _show_top(top: pd.DataFrame) -> None:
    number = st.column_config.NumberColumn
    votes = "Windows in which it is the most probable, at or above the threshold."
    texts = {"common_name": "Common name", "scientific_name": "Scientific name", "class_name": "Class"}
    columns: dict[str, Any] = {
        "rank": number("Rank", width=50),
        **texts,
        "probability": number("Probability", format="%.4f", width=80),
        "best": number("Best window", format="%.4f", width=80),
        "votes": number("Votes", help=votes, width=50),
        "label": "Label",
    }
    shown = [x for x in columns if x not in texts or top[x].any()]
    st.dataframe(top, hide_index=True, column_config=columns, column_order=shown, key="top-table")


def _show_timeline(
    classifier: Classifier, controls: Controls, analysis: Analysis, top: pd.DataFrame, only: set[str]
) -> None:
    """The chosen species, or without a choice those of the answer."""
    wanted = list(controls.only) or list(top["label"])
    found = analysis.found
    lines: dict[str, np.ndarray] = {}
    labels: dict[str, str] = {}
    for name in [x for x in wanted if x in only][:_LINES]:
        column = classifier.labels.index(name)
        shown = classifier.labels.items[column].display_name
        shown = f"{shown} ({name})" if shown in lines else shown
        lines[shown], labels[shown] = found.scores[:, column], name
    chart = charts.timeline(found.start_s, lines, controls.threshold, analysis.envelope.seconds)

    def on_select() -> None:
        picked = st.session_state["timeline"]["selection"].get(charts.PICK)
        if picked:
            _look_at(float(picked[0]["start_s"]), labels.get(picked[0].get("species"), ""))

    st.altair_chart(chart, key="timeline", on_select=on_select)


def _show_part(
    classifier: Classifier,
    recording: Recording,
    part_s: tuple[float, float],
    detections: pd.DataFrame,
    heard: RecordingStatus,
) -> None:
    """The player and the spectrogram of the part that is looked at, silent where it was left out."""
    audio = classifier.audio
    samples = _sound(recording, part_s, audio, heard.left_out_s)
    if not len(samples):
        st.warning("Nothing decodes here.")
        return
    focus = st.session_state.get("focus")
    start_s = max(0.0, focus[0] - part_s[0]) / audio.speed if focus else 0.0
    play = bool(st.session_state.pop("play", False))
    st.audio(_wav(samples, audio.sample_rate_hz), start_time=start_s, autoplay=play)
    if audio.speed != 1:
        st.caption(f"Played as the model hears it, at {audio.speed:g} of the speed.")
    own_rate_hz = _own_rate_hz(classifier, heard.sample_rate_hz)
    if own_rate_hz:
        samples = _sound(recording, part_s, AudioConfig(sample_rate_hz=own_rate_hz), heard.left_out_s)
    picture = charts.part_picture(samples, part_s[0], classifier, detections, focus, own_rate_hz)
    st.image(picture, width="stretch", alt="Waveform and spectrogram with detections")


def _sound(
    recording: Recording,
    part_s: tuple[float, float],
    audio: AudioConfig,
    left_out_s: Sequence[tuple[float, float]],
) -> np.ndarray:
    samples = read_part(recording.path, *part_s, audio)
    for span_s in left_out_s:
        first, last = (max(0, round((x - part_s[0]) * audio.resample_hz)) for x in span_s)
        samples[first:last] = 0
    return samples


def _own_rate_hz(classifier: Classifier, rate_hz: int) -> int | None:
    """Asks whether all that was recorded is drawn, where that is more than the model hears; the rate if so.

    It is from the beginning where most of it is ultrasound of which the model hears nothing.
    """
    _, top_hz = classifier.audio.band_hz(classifier.mel)
    half_hz = rate_hz / 2
    if half_hz <= top_hz:
        return None
    is_ultrasound = half_hz > max(_ULTRASOUND_HZ, 2 * top_hz)
    text = f"All frequencies of the recording, up to {half_hz / 1000:g} kHz"
    said = f"Otherwise what the model hears: its mel spectrogram, up to {top_hz / 1000:g} kHz."
    return rate_hz if st.toggle(text, is_ultrasound, help=said, key=f"all-{rate_hz}") else None


def _show_detections(detections: pd.DataFrame, reviews: review.Reviews) -> None:
    st.markdown(f"**{len(detections):,} detection{'s' * (len(detections) != 1)}**: choose one to hear it")
    if detections.empty:
        return
    rows = detections.to_dict("records")
    table = detections[["start_s", "end_s", "label", "score"]].copy()
    table.insert(2, "species", [charts.species(x) for x in rows])
    table["review"] = [review.describe(reviews.get(review.place_of(x), ())) for x in rows]
    places = list(zip(detections["start_s"], detections["label"], strict=True))

    def on_select() -> None:
        rows = st.session_state["detections"]["selection"]["rows"]
        if rows and rows[0] < len(places):
            _look_at(*places[rows[0]])

    st.dataframe(
        table,
        hide_index=True,
        height=min(400, 36 * (len(table) + 1) + 2),
        key="detections",
        on_select=on_select,
        selection_mode="single-row",
        column_config={
            "start_s": st.column_config.NumberColumn("Start (s)", format="%.2f"),
            "end_s": st.column_config.NumberColumn("End (s)", format="%.2f"),
            "species": "Species",
            "label": "Label",
            "score": st.column_config.ProgressColumn("Probability", format="%.3f", min_value=0, max_value=1),
            "review": "Review",
        },
    )


def _show_downloads(
    classifier: Classifier,
    analysis: Analysis,
    detections: pd.DataFrame,
    reviews: review.Reviews,
    is_kept: bool,
) -> None:
    """Buttons for CSV, Raven and Audacity, and for the reviews, which may stay beside the recording anyway."""
    import pyarrow as pa

    table = pa.Table.from_pandas(detections, preserve_index=False).select(detection_schema().names)
    table = table.cast(detection_schema())
    found, file = [(analysis.found.recording, table.to_batches())], Path(analysis.found.recording.file)
    bounds_hz = classifier.audio.band_hz(classifier.mel)

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
    *places, last = st.columns(len(files) + 1)
    for place, (name, (ending, data)) in zip(places, files.items(), strict=True):
        key = f"download-{name.split()[1]}"
        place.download_button(f"Detections {name}", data, f"{file.stem}.{ending}", key=key, **style)
    marks = [replace(x, file=file.name) for said in reviews.values() for x in said]
    table_of_marks = text(lambda x: write_reviews(x, marks))
    hint = "They lie beside the recording already." if is_kept else "They go with this session: keep them."
    style |= {"key": "download-reviews", "disabled": not marks, "help": hint}
    last.download_button(f"Reviews ({len(marks)})", table_of_marks, f"{file.name}.reviews.csv", **style)


def _part(analysis: Analysis, length_s: float) -> tuple[float, float]:
    """The part to look at closely: around the focus, or where the slider is."""
    seconds = analysis.envelope.seconds
    if seconds <= length_s:
        return 0.0, seconds
    last = seconds - length_s
    if (focus := st.session_state.get("focus")) and st.session_state.pop("moved", False):
        st.session_state["part"] = float(min(last, max(0.0, focus[0] - length_s / 3)))
    style: Any = {"step": length_s / 30, "format": "%.0f" if length_s >= PART_S else "%.2f"}
    begin_s = st.slider(f"Look at {length_s:g} s from (s)", 0.0, float(last), key="part", **style)
    return begin_s, begin_s + length_s


def _look_at(start_s: float, label: str) -> None:
    st.session_state.update(focus=(start_s, label), play=True, moved=True)


@st.cache_data(max_entries=8, show_spinner=False)
def _wav(samples: np.ndarray, rate_hz: int) -> bytes:
    """16 bits, as any browser plays them."""
    file = BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), rate_hz, format="WAV", subtype="PCM_16")
    return file.getvalue()


if __name__ == "__main__":
    main()
