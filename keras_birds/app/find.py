"""The page "Find": search a store, mark what was found, and teach a quick head that chooses what to mark next."""

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import streamlit as st

from keras_birds.app import charts
from keras_birds.app.cards import Card, cards_of
from keras_birds.app.controls import ask_reviewer
from keras_birds.app.hit_grid import hit_grid, said_in
from keras_birds.app.marks import MARKS, WORDS, Mark, Marks, read_marks, save_mark
from keras_birds.app.opened import model_of, opened
from keras_birds.app.query import ask_query
from keras_birds.app.recording import Recording
from keras_birds.app.session import plain
from keras_birds.data.reviews import Verdict
from keras_birds.embeddings.search import search
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.embeddings.teach import DEFAULT_WAY, LEAST_MARKS, WAYS, How, quick_head, suggest
from keras_birds.errors import KerasBirdsError
from keras_birds.results.journal import JOURNAL
from keras_birds.results.writers.files import safe_name
from keras_birds.text import printable

PAGE_HITS = 12
_SEARCHED = 300
_GRID = "hits_grid"


@dataclass
class Found:
    """What a visitor searched for, and what is shown of it.

    Args:
        label: that the hits are marked for.
        scores: of rows that may be shown: similarities, or after teaching the quick head's of all windows.
        order: rows by similarity, without near-duplicates.
        shown: rows that were shown.
    """

    label: str
    scores: dict[int, float]
    order: np.ndarray
    shown: list[int] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    page: str = ""
    taught: np.ndarray | None = None
    told: str = ""


@dataclass(frozen=True)
class Place:
    """Where the page works: a store, a table of marks, whose they are, and what is marked."""

    store: EmbeddingStore
    marks_path: Path
    reviewer: str
    label: str

    def marks(self) -> Marks:
        """As they are now."""
        return read_marks(self.marks_path, self.store, self.label)


def show(
    folder: Path, reviews: Path | None, model: str | None, choose: Callable[[], Recording | None]
) -> None:
    """Draws the page; `choose` asks for a recording."""
    store, _, changed_ns = opened(folder)
    path = (reviews or folder / "marks") / MARKS
    with st.sidebar:
        reviewer = ask_reviewer()
        st.caption(
            f"{plain(folder.name)}: {len(store):,} windows of {len(store.recordings):,} recordings, "
            f"model {plain(store.model_id)}"
        )
        st.caption(f"Marks are kept in {plain(str(path))}")
        if (folder / JOURNAL).stat().st_mtime_ns != changed_ns:
            st.warning("The store has changed since it was opened here.", icon="⚠️")
            st.button("Open it again", on_click=_reopen)
    if not len(store):
        st.info("The store has no windows yet: let keras-birds embed go on.")
        return
    label = _ask_label(store, model, path)
    if not label:
        st.info("Say what you look for: marks are of this label.")
        return
    place = Place(store, path, reviewer, label)
    marks = place.marks()
    with st.expander("What is searched for", expanded=True):
        queries = None
        with _told():
            queries = ask_query(store, model, marks, choose)
        wanted = st.button("Search", type="primary", key="search", disabled=queries is None)
    if wanted and queries:
        with st.spinner("Searching"), _told():
            found = search(store, queries().vectors, _SEARCHED)
            order = found["row"][found["duplicate_of"] < 0].to_numpy()
            scores = dict(zip(found["row"].tolist(), found["similarity"].tolist(), strict=True))
            st.session_state["found"] = (store, Found(label, scores, order))
            _turn(place, marks, None)
    if _found(place):
        _hits(place)


@contextmanager
def _told() -> Iterator[None]:
    """What is wrong is told on the page, which goes on."""
    try:
        yield
    except (KerasBirdsError, OSError) as error:
        st.error(plain(str(error)), icon="⚠️")


def _ask_label(store: EmbeddingStore, model: str | None, path: Path) -> str:
    known = list(read_marks(path, store, "").labels)
    with suppress(KerasBirdsError):
        known += model_of(store, model).labels.names
    label = st.selectbox(
        "What do you look for?",
        list(dict.fromkeys(known)),
        index=None,
        key="label",
        accept_new_options=True,
        placeholder="Choose a label, or type one",
        bind="query-params",
    )
    return (label or "").strip()


def _reopen() -> None:
    opened.cache_clear()
    st.session_state.pop("found", None)


def _found(place: Place) -> Found | None:
    """What was found; none once the store or the label is another."""
    kept: tuple[EmbeddingStore, Found] | None = st.session_state.get("found")
    return kept[1] if kept and kept[0] is place.store and kept[1].label == place.label else None


@st.fragment
def _hits(place: Place) -> None:
    """All that a mark changes: nothing that is heavy unless a button is pressed."""
    with _told():
        _draw_hits(place)


def _draw_hits(place: Place) -> None:
    found = cast(Found, _found(place))
    marks = place.marks()
    _, targets = marks.settled
    yes, no = int((targets == 1).sum()), int((targets == 0).sum())
    can_teach = min(yes, no) >= LEAST_MARKS
    left, middle, right = st.columns((2, 2, 3), vertical_alignment="bottom")
    how: How = left.selectbox(
        "The next page", list(WAYS), index=list(WAYS).index(DEFAULT_WAY), key="how", disabled=not can_teach
    )
    text = "Teach, and show the next page" if can_teach else "More hits"
    if middle.button(text, key="onward", type="primary", shortcut="t", width="stretch"):
        with st.spinner("Teaching" if can_teach else "Reading"):
            _turn(place, marks, how if can_teach else None)
    lacking = [f"{LEAST_MARKS - n} more {word}" for n, word in ((yes, "yes"), (no, "no")) if n < LEAST_MARKS]
    right.caption(
        f"{how}: {WAYS[how]}." if can_teach else f"A head can be taught after {' and '.join(lacking)}."
    )
    if found.told:
        st.caption(found.told)
    if not found.cards:
        st.info("No window is left that wasn't shown or marked.")
    if problem := st.session_state.pop("mark_error", ""):
        st.error(plain(problem), icon="⚠️")
    hit_grid(_GRID, _data(place, found, marks), lambda: _on_said(place))
    _summary(place, marks, found, (yes, no))


def _data(place: Place, found: Found, marks: Marks) -> dict[str, Any]:
    """What the grid shows. After a mark of the visitor's own it is what it was: megabytes that needn't be sent."""
    kept = st.session_state.get("grid_data")
    if st.session_state.pop("own_mark", False) and kept and kept["page"] == found.page:
        return cast(dict[str, Any], kept)
    mine = marks.of(place.reviewer)
    hits = [
        asdict(card)
        | {
            "score": f"{found.scores[card.row]:.2f}",
            "mine": mine[card.row].verdict if card.row in mine else "",
            "others": marks.of_others(card.row, place.reviewer),
        }
        for card in found.cards
    ]
    id, count = st.session_state.get("handled", ("", 0))
    data = {"page": found.page, "label": place.label, "hits": hits, "handled": {"id": id, "count": count}}
    st.session_state["grid_data"] = data
    return data


def _on_said(place: Place) -> None:
    """Keeps the marks that are new: each is told again until the page is opened anew."""
    said, found = said_in(_GRID), _found(place)
    if said is None or found is None:
        return
    id, count = st.session_state.get("handled", ("", 0))
    new = said.log[count if id == said.id else 0 :]
    st.session_state.update(handled=(said.id, len(said.log)), own_mark=True)
    try:
        for row, word, label in new:
            if row in found.scores and label == place.label and word in (*WORDS, ""):
                verdict = cast(Verdict, word) if word else None
                save_mark(
                    place.marks_path,
                    place.store,
                    Mark(row, label, verdict, place.reviewer, found.scores[row]),
                )
    except (KerasBirdsError, OSError) as error:
        st.session_state.update(mark_error=str(error), own_mark=False)


def _turn(place: Place, marks: Marks, how: How | None) -> None:
    """The next page: of a new head's choice, or with none of the hits that come next."""
    found = cast(Found, _found(place))
    began = time.perf_counter()
    without = sorted({*found.shown, *marks.of(place.reviewer)})
    if how is None:
        rows = found.order[~np.isin(found.order, without)][:PAGE_HITS]
        found.told = "The windows most similar to what was searched for"
    else:
        known, targets = marks.settled
        _, standard, _ = opened(place.store.folder)
        found.taught = quick_head(place.store, known, targets, standard)
        rows = suggest(place.store, found.taught, np.array(without, np.int64), how, PAGE_HITS, len(without))
        found.scores |= {int(x): float(found.taught[x]) for x in rows}
        took_s = time.perf_counter() - began
        found.told = f"Taught with {len(known)} windows; all {len(place.store):,} scored: {took_s:.2f} s"
    found.cards = cards_of(place.store.windows(rows), place.store.audio) if len(rows) else []
    found.shown += rows.tolist()
    found.page = f"{place.label} {len(found.shown)} {time.time()}"


def _summary(place: Place, marks: Marks, found: Found, counts: Sequence[int]) -> None:
    mine = marks.of(place.reviewer)
    unsure = sum(x.verdict == "unsure" for x in mine.values())
    others = sum(len(said) for said in marks.by_row.values()) - len(mine)
    st.markdown(
        f"**{plain(place.label)}**: {counts[0]} yes and {counts[1]} no on which all agree; "
        f"{len(mine)} marks are yours ({unsure} unsure), {others} of others"
    )
    if marks.elsewhere:
        st.caption(f"{marks.elsewhere} more marks of it are of no window of this store")
    if marks.disputed:
        _disagreements(place, marks)
    if found.taught is not None:
        st.altair_chart(charts.score_histogram(found.taught, *marks.settled), key="scores")
    command = ["keras-birds", "train", "--embeddings", str(place.store.folder)]
    command += [
        "--reviews",
        str(place.marks_path.parent),
        "--config",
        "head",
        "--out",
        f"runs/{safe_name(place.label)}",
    ]
    st.caption("Marked enough? This makes the detector:")
    st.code(printable(shlex.join(command)), language="bash", wrap_lines=True)


def _disagreements(place: Place, marks: Marks) -> None:
    rows = np.array(marks.disputed, np.int64)
    with st.expander(f"{len(rows)} windows on which people disagree: they teach nothing"):
        table = place.store.windows(rows)[["file", "start_s", "end_s"]]
        said = (marks.by_row[x] for x in marks.disputed)
        table["file"] = [printable(x) for x in table["file"]]
        table["said"] = [", ".join(f"{x.reviewer or 'somebody'} {WORDS[x.verdict]}" for x in y) for y in said]
        st.dataframe(table, hide_index=True, key="disputed")
