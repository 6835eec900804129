"""Hits as a grid with a player and keys: what the visitor's browser draws, and what it says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

_folder = Path(__file__).parent
_component = st.components.v2.component(
    "keras_birds_hit_grid",
    css=(_folder / "hit_grid.css").read_text("utf-8"),
    js=(_folder / "hit_grid.js").read_text("utf-8"),
    isolate_styles=False,
)


@dataclass(frozen=True)
class Said:
    """All marks of one browser page since it was opened: rows of the store, verdicts (empty: taken back), labels."""

    id: str
    log: Sequence[tuple[int, str, str]]


def hit_grid(key: str, data: Mapping[str, Any], on_said: Any) -> None:
    """Draws the grid.

    Args:
        key: of the component; `said_in` reads what the visitor says.
        data: `page`, which changes when other hits are shown; `label`; `hits`, cards with `score`, `mine` (the
            visitor's verdict) and `others` (what others say); `handled`, what of the visitor's marks is in `mine`.
        on_said: called when there is more.
    """
    _component(key=key, data=data, on_said_change=on_said)


def said_in(key: str) -> Said | None:
    """What the visitor said in a grid; `None` for nothing yet, or nothing that the grid can have sent."""
    said: Any = (st.session_state.get(key) or {}).get("said")
    try:
        return Said(str(said["id"]), [(int(row), str(word), str(label)) for row, word, label in said["log"]])
    except (TypeError, KeyError, ValueError):
        return None
