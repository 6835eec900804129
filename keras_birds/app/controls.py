"""The page's sidebar: the model and how its scores are read."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

import keras_birds
from keras_birds.birdnet.range_model import RangeModel
from keras_birds.errors import ModelError
from keras_birds.inference.classifier import Classifier
from keras_birds.models.find import DEFAULTS, finished_models, named_models, resolve_model
from keras_birds.results.detections import THRESHOLD
from keras_birds.results.occurrence import Occurrence, find_range_model
from keras_birds.results.origin import Origins
from keras_birds.results.voices import has_voices
from keras_birds.run_layout import RUNS_DIR


@dataclass(frozen=True)
class Controls:
    """What the sidebar is set to."""

    overlap_s: float
    threshold: float
    top_k: int
    method: str
    merge: bool
    only: tuple[str, ...]
    origins: Origins
    occurrence: Occurrence | None
    no_voices: float | None
    reviewer: str


def sidebar(first: str | None) -> tuple[Classifier, Controls]:
    """Draws the sidebar; all it is set to stands in the page's address.

    The list of models begins with the given one, then come runs from the newest on, then added and shipped ones,
    of which the defaults first.
    """
    address: Any = {"bind": "query-params"}
    runs = [str(x.parents[1]) for x in reversed(finished_models(RUNS_DIR))]
    named = sorted(named_models(), key=lambda x: (*DEFAULTS, x).index(x))
    models = list(dict.fromkeys([*([first] if first else []), *runs, *named]))
    with st.sidebar:
        model = st.selectbox("Model", models, key="model", **address)
        classifier = _classifier(model, tuple(x.stat().st_mtime_ns for x in resolve_model(model)))
        licence = classifier.engines[0].metadata.licence
        st.caption(f"{len(classifier.labels)} labels{f', licence {licence}' if licence else ''}")
        clip_s = classifier.audio.window_s
        shared = f"Windows are {clip_s:g} s long; each shares so much with the one before."
        bounds = 0.0, 0.9 * clip_s, 0.0, 0.1 * clip_s
        overlap = st.slider("Overlap (s)", *bounds, key="overlap", help=shared, **address)
        of = "Of a detection."
        threshold = st.slider("Threshold", 0.0, 1.0, THRESHOLD, 0.01, key="threshold", help=of, **address)
        top_k = st.slider("Labels in the answer", 1, 20, 5, key="top", **address)
        method = st.radio(
            "Answer by",
            ("mean", "max"),
            key="by",
            horizontal=True,
            format_func={"mean": "mean of windows", "max": "best window"}.get,
            help="The mean suits clips of one animal; the best window finds a single call in a long recording.",
            **address,
        )
        into = "Into one event with the best score."
        merge = st.toggle("Merge touching windows", key="merge", help=into, **address)
        names = {x.name: x.display_name for x in classifier.labels.items}
        only = st.multiselect(
            "Only these species",
            list(names),
            key="species",
            format_func=lambda x: names.get(x, x),
            placeholder="All",
            **address,
        )
        origins, occurrence = _where_and_when(classifier, address)
        no_voices = _no_voices(classifier, address)
        reviewer = ask_reviewer()
    chosen = overlap, threshold, top_k, method, merge, tuple(only), origins, occurrence, no_voices, reviewer
    return classifier, Controls(*chosen)


def ask_reviewer() -> str:
    """The visitor's name, empty where they give none."""
    of = "Stands with your reviews, so that those of several people are kept apart."
    style: Any = {"max_chars": 60, "help": of, "bind": "query-params"}
    return st.text_input("Your name", key="reviewer", **style).strip()


def _where_and_when(classifier: Classifier, address: dict[str, Any]) -> tuple[Origins, Occurrence | None]:
    """Asks for place and week, where BirdNET's range model is at hand."""
    model = _range_model(classifier.engines[0].path)
    if model is None:
        return Origins(), None
    north, east, when = st.columns(3)
    blank: Any = {"value": None, "placeholder": "any", **address}
    of = "Of the recording, whatever it tells itself; else where the recording tells that it was made."
    latitude = north.number_input("Latitude", -90.0, 90.0, key="lat", help=of, **blank)
    longitude = east.number_input("Longitude", -180.0, 180.0, key="lon", **blank)
    of = "1 to 48, four a month; by the date that the recording or its name tells where it isn't given."
    week = when.number_input("Week", 1, 48, key="week", help=of, **blank)
    place = None if latitude is None or longitude is None else (latitude, longitude)
    return Origins(place=place), Occurrence(classifier.labels, model, week)


def _no_voices(classifier: Classifier, address: dict[str, Any]) -> float | None:
    """Asks from which probability windows with voices are left out, where the model knows voices."""
    if not has_voices(classifier.labels):
        return None
    said = (
        "Windows with a voice at least so probable, and those beside them, are left out and silent. 1: none."
    )
    least = st.slider("Leave out voices from", 0.0, 1.0, 1.0, 0.01, key="voices", help=said, **address)
    return least if least < 1 else None


@st.cache_resource(max_entries=4, show_spinner=False)
def _range_model(model: Path) -> RangeModel | None:
    with suppress(ModelError):
        return find_range_model(model)
    return None


@st.cache_resource(max_entries=4, show_spinner="Loading the model")
def _classifier(model: str, changed_ns: tuple[int, ...]) -> Classifier:  # noqa: ARG001 - part of the cache's key
    """Loaded once for all visitors, until its files change."""
    return keras_birds.load(model)
