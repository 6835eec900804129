"""What the page "Find" searches for: a recording, a part of one, or windows that were marked as the label."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st

from keras_birds.app.cards import picture_url
from keras_birds.app.marks import Marks
from keras_birds.app.opened import model_of
from keras_birds.app.recording import Recording
from keras_birds.audio.decode import header_seconds, read_part
from keras_birds.audio.envelope import read_envelope
from keras_birds.embeddings.queries import (
    MAX_WINDOWS,
    Queries,
    least_s,
    row_queries,
    sound_queries,
)
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.errors import AudioError

PART_S = 30.0
"""Length of what is drawn at once."""
_PART = "part"
_MOST_ROWS = 50


def ask_query(
    store: EmbeddingStore, model: str | None, marks: Marks, choose: Callable[[], Recording | None]
) -> Callable[[], Queries] | None:
    """Asks what to search for; what embeds it when it is wanted, `None` while there is nothing."""
    rows = [row for row, target in zip(*marks.settled, strict=True) if target > 0][-_MOST_ROWS:]
    kinds = ["A sound", "Windows marked yes"][: 1 + bool(rows)]
    kind = st.segmented_control("Search by", kinds, default=kinds[0], key="query")
    if kind and kind != kinds[0]:
        return lambda: row_queries(store, rows)
    recording = choose()
    if recording is None:
        return None
    with _named(recording):
        span_s = _part(recording, store)
    if span_s is None:
        return None

    def embed() -> Queries:
        with _named(recording):
            return sound_queries(model_of(store, model), [str(recording.path)], *span_s)

    return embed


@contextmanager
def _named(recording: Recording) -> Iterator[None]:
    """Problems of a recording are told by the name that people know."""
    try:
        yield
    except AudioError as error:
        raise AudioError(recording.name, error.reason, error.status) from None


def _part(recording: Recording, store: EmbeddingStore) -> tuple[float | None, float | None] | None:
    """The part that was dragged out; without one the whole, which is no part; `None` if that is too long."""
    seconds, begin_s = _seconds(*recording.key), 0.0
    if st.session_state.get("query_of") != recording.key:
        for name in ("query_from", "query_part"):
            st.session_state.pop(name, None)
        st.session_state["query_of"] = recording.key
    length_s = PART_S * store.audio.speed
    if seconds > length_s:
        last = float(seconds - length_s)
        style: Any = {"step": length_s / 30, "format": "%.0f" if length_s >= PART_S else "%.2f"}
        begin_s = st.slider(f"Look at {length_s:g} s from (s)", 0.0, last, key="query_from", **style)
    end_s = min(seconds, begin_s + length_s)
    url = _picture(*recording.key, begin_s, end_s, store)
    event: Any = st.altair_chart(part_chart(url, begin_s, end_s), key="query_part", on_select="rerun")
    dragged = event["selection"].get(_PART, {}).get("time_s")
    if dragged:
        first_s, last_s = (float(np.clip(x, begin_s, end_s)) for x in sorted(dragged))
        if last_s - first_s < (shortest_s := least_s(store.audio)):
            st.caption(f"A query is at least {shortest_s:g} s long: drag over more.")
            return None
        st.caption(f"{first_s:.2f} to {last_s:.2f} s")
        return first_s, last_s
    if seconds > MAX_WINDOWS * store.audio.window_s:
        st.caption("Drag over the call in the picture.")
        return None
    st.caption("The whole recording; drag over the call in the picture to search for that alone.")
    return None, None


def part_chart(url: str, begin_s: float, end_s: float) -> Any:
    """A spectrogram on which a span can be dragged."""
    table = pd.DataFrame({"url": [url], "begin_s": [begin_s], "end_s": [end_s], "low": [0], "high": [1]})
    span = alt.Scale(domain=(begin_s, end_s), nice=False)
    time = alt.X("begin_s:Q", title="Time (s)", scale=span, axis=alt.Axis(tickCount=10))
    height = alt.Y("low:Q", axis=None, scale=alt.Scale(domain=(0, 1)))
    image = (
        alt.Chart(table)
        .mark_image(aspect=False)
        .encode(x=time, x2="end_s:Q", y=height, y2="high:Q", url="url:N")
    )
    points = pd.DataFrame({"time_s": np.linspace(begin_s, end_s, 200)})
    drag = alt.selection_interval(name=_PART, encodings=["x"])
    layer = alt.Chart(points).mark_rule(opacity=0).encode(x=alt.X("time_s:Q", scale=span)).add_params(drag)
    return (image + layer).properties(height=180)


@st.cache_data(max_entries=64, show_spinner=False)
def _seconds(path: str, *state: int) -> float:  # noqa: ARG001 - of the cache
    seconds = header_seconds(path)
    return seconds if np.isfinite(seconds) else read_envelope(path).seconds


@st.cache_data(max_entries=16, show_spinner=False)
def _picture(
    path: str,
    size: int,  # noqa: ARG001 - of the cache, as the next
    changed_ns: int,  # noqa: ARG001
    begin_s: float,
    end_s: float,
    _store: EmbeddingStore,
) -> str:
    return picture_url(read_part(path, begin_s, end_s, _store.audio), _store.audio)
