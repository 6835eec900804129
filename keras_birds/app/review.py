"""Right, wrong, another species or unsure: what the visitor says of a detection, kept in the recording's reviews."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from keras_birds.app.session import plain
from keras_birds.data import reviews as kept
from keras_birds.data.reviews import Place, Review, Verdict, disagreements
from keras_birds.errors import KerasBirdsError
from keras_birds.inference.classifier import Classifier

Reviews = Mapping[Place, Sequence[Review]]


def read(path: Path) -> Reviews:
    """A recording's reviews by what they speak of; none, and an error on the page, where they can't be read."""
    found: dict[Place, list[Review]] = defaultdict(list)
    try:
        for x in kept.read_reviews(path):
            found[x.place].append(x)
    except KerasBirdsError as error:
        st.error(plain(str(error)), icon="⚠️")
    return dict(found)


def place_of(row: Mapping[Any, Any]) -> Place:
    """Of a row of detections, what a review of it speaks of."""
    return round(float(row["start_s"]), 3), round(float(row["end_s"]), 3), str(row["label"])


def describe(found: Sequence[Review]) -> str:
    """A few words for the table; where reviewers disagree, that comes first."""
    said = [f"{_word(x)} ({x.reviewer})" if x.reviewer else _word(x) for x in found]
    return ("≠ " if disagreements(found) else "") + ", ".join(said)


def _word(x: Review) -> str:
    return {"right": "✓ right", "wrong": "✗ wrong", "other": f"→ {x.true_label}", "unsure": "? unsure"}[
        x.verdict
    ]


def panel(
    classifier: Classifier,
    recording: Path,
    focus: tuple[float, str],
    detections: pd.DataFrame,
    reviews: Reviews,
    reviewer: str,
    look_at: Callable[[float, str], None],
) -> None:
    """Buttons for the detection that is looked at, by its start and label; nothing where the focus is on none.

    Marks are the `reviewer`'s, who takes back only what is theirs.
    """
    is_it = (detections["start_s"] == focus[0]) & (detections["label"] == focus[1])
    if not is_it.any():
        return
    onwards = detections[is_it.cumsum() > 0].to_dict("records")
    row, path = onwards[0], kept.reviews_path(recording)
    place = place_of(row)
    mine = {x: y for x, said in reviews.items() for y in said if y.reviewer == reviewer}
    left = [x for x in onwards if place_of(x) not in {*mine, place}]
    so_far = describe(reviews.get(place, ())) or "not reviewed yet"
    st.markdown(f"**{plain(row['label'])}** at {row['start_s']:.2f} s, {plain(so_far)}")
    widths = (1, 1, 1, 2, 1, 1, 1)
    right, wrong, unsure, species, other, undo, onward = st.columns(widths, vertical_alignment="bottom")
    style: Any = {"width": "stretch"}
    buttons: dict[Verdict, tuple[Any, str]] = {
        "right": (right, "✓ Right"),
        "wrong": (wrong, "✗ Wrong"),
        "unsure": (unsure, "? Unsure"),
        "other": (other, "→ Another"),
    }
    for verdict, (column, text) in buttons.items():
        said = path, recording.name, row, verdict, reviewer
        column.button(text, key=verdict, on_click=_say, args=said, **style)
    others = [x for x in classifier.labels if x != row["label"]]
    species.selectbox("It is", others, index=None, key="true_label", accept_new_options=True)
    own = mine.get(place)
    take_back = partial(_keep, partial(kept.remove_review, path, own.key)) if own else None
    undo.button("Take back", key="undo", on_click=take_back, disabled=own is None, **style)
    onward.button(
        "Next ▶",
        key="next",
        on_click=lambda: look_at(float(left[0]["start_s"]), str(left[0]["label"])),
        disabled=not left,
        help="The next detection without a review of yours.",
        **style,
    )
    if problem := st.session_state.pop("review_error", ""):
        st.error(plain(problem), icon="⚠️")


def _say(path: Path, file: str, row: Mapping[Any, Any], verdict: Verdict, reviewer: str) -> None:
    true_label = st.session_state.get("true_label", "") if verdict == "other" else ""
    if verdict == "other" and not true_label:
        st.session_state["review_error"] = "Choose the species first."
        return
    found = float(row["score"]), str(row["model_id"])
    said = Review(file, *place_of(row), *found, verdict, true_label, kept.now(), reviewer)
    _keep(lambda: kept.save_review(path, said))


def _keep(write: Callable[[], None]) -> None:
    try:
        write()
    except KerasBirdsError as error:
        st.session_state["review_error"] = str(error)
