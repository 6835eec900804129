"""Right, wrong, or another species: what the visitor says of a detection, kept in the recording's reviews."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from keras_birds.app.session import plain
from keras_birds.data import reviews as kept
from keras_birds.data.reviews import Review, Verdict
from keras_birds.errors import KerasBirdsError
from keras_birds.inference.classifier import Classifier

Place = tuple[float, float, str]


def read(path: Path) -> dict[Place, Review]:
    """A recording's reviews by what they speak of; none, and an error on the page, where they can't be read."""
    try:
        return {x.place: x for x in kept.read_reviews(path)}
    except KerasBirdsError as error:
        st.error(plain(str(error)), icon="⚠️")
        return {}


def place_of(row: Mapping[Any, Any]) -> Place:
    """Of a row of detections, what a review of it speaks of."""
    return round(float(row["start_s"]), 3), round(float(row["end_s"]), 3), str(row["label"])


def describe(found: Review | None) -> str:
    """A word for the table."""
    if found is None:
        return ""
    return {"right": "✓ right", "wrong": "✗ wrong", "other": f"→ {found.true_label}"}[found.verdict]


def panel(
    classifier: Classifier,
    recording: Path,
    focus: tuple[float, str],
    detections: pd.DataFrame,
    reviews: dict[Place, Review],
    look_at: Callable[[float, str], None],
) -> None:
    """Buttons for the detection that is looked at, by its start and label; nothing where the focus is on none."""
    is_it = (detections["start_s"] == focus[0]) & (detections["label"] == focus[1])
    if not is_it.any():
        return
    onwards = detections[is_it.cumsum() > 0].to_dict("records")
    row, path = onwards[0], kept.reviews_path(recording)
    place = place_of(row)
    left = [x for x in onwards if place_of(x) not in {*reviews, place}]
    so_far = describe(reviews.get(place)) or "not reviewed yet"
    st.markdown(f"**{plain(row['label'])}** at {row['start_s']:.2f} s, {plain(so_far)}")
    right, wrong, species, other, undo, onward = st.columns((1, 1, 2, 1, 1, 1), vertical_alignment="bottom")
    style: Any = {"width": "stretch"}
    verdicts = (right, "✓ Right", "right"), (wrong, "✗ Wrong", "wrong"), (other, "→ Another", "other")
    for column, text, verdict in verdicts:
        column.button(text, key=verdict, on_click=_say, args=(path, recording.name, row, verdict), **style)
    others = [x for x in classifier.labels if x != row["label"]]
    species.selectbox("It is", others, index=None, key="true_label", accept_new_options=True)
    is_new = place not in reviews
    take_back = partial(_keep, partial(kept.remove_review, path, place))
    undo.button("Take back", key="undo", on_click=take_back, disabled=is_new, **style)
    onward.button(
        "Next ▶",
        key="next",
        on_click=lambda: look_at(float(left[0]["start_s"]), str(left[0]["label"])),
        disabled=not left,
        help="The next detection without a review.",
        **style,
    )
    if problem := st.session_state.pop("review_error", ""):
        st.error(plain(problem), icon="⚠️")


def _say(path: Path, file: str, row: Mapping[Any, Any], verdict: Verdict) -> None:
    true_label = st.session_state.get("true_label", "") if verdict == "other" else ""
    if verdict == "other" and not true_label:
        st.session_state["review_error"] = "Choose the species first."
        return
    found = float(row["score"]), str(row["model_id"])
    said = Review(file, *place_of(row), *found, verdict, true_label, kept.now())
    _keep(lambda: kept.save_review(path, said))


def _keep(write: Callable[[], None]) -> None:
    try:
        write()
    except KerasBirdsError as error:
        st.session_state["review_error"] = str(error)
