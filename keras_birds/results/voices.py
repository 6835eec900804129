"""People's privacy: windows in which somebody speaks are left out, and so are their neighbours."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from keras_birds.audio.clips import TOUCHING_S, united
from keras_birds.errors import ConfigError, ModelError
from keras_birds.inference.classifier import LiveWindow
from keras_birds.inference.scorer import RecordingScores
from keras_birds.labels import LabelSet

# As BirdNET-Pi's `filter_humans` (scripts/utils/analysis.py): BirdNET's Human vocal, Human non-vocal and Human whistle,
# and what Perch 2 calls voices.
_VOICE = re.compile("(human|conversation|speech|child_|female_|male_|yell|homo sapiens)", re.IGNORECASE)


def voice_columns(labels: LabelSet) -> np.ndarray:
    """Which labels are voices and other sounds that people make: BirdNET's three of Human, Perch's speech.

    Raises:
        ModelError: if there is none.
    """
    found = _voices(labels)
    if not found:
        raise ModelError(
            f"--no-voices needs a model with a label for people's voices. Received: {len(labels)} labels, none of them "
            "as BirdNET's Human vocal. Choose --model birdnet"
        )
    return np.array(found)


def has_voices(labels: LabelSet) -> bool:
    """Whether a label is a voice."""
    return bool(_voices(labels))


def _voices(labels: LabelSet) -> list[int]:
    return [k for k, x in enumerate(labels.items) if is_voice(x.name, x.scientific_name)]


def is_voice(label: str, scientific_name: str) -> bool:
    """Whether a label is a sound that people make, by its names."""
    return bool(_VOICE.match(label) or _VOICE.match(scientific_name))


def check_voices(labels: LabelSet, least: float) -> None:
    """Raises a `ConfigError` if a voice can't have this probability, and what `voice_columns` raises."""
    if not 0 <= least <= 1:
        raise ConfigError(f"--no-voices must be from 0 to 1. Received: {least:g}")
    voice_columns(labels)


def is_left_out(found: RecordingScores, columns: np.ndarray, least: float) -> np.ndarray:
    """Which windows hold a voice of at least a probability, or overlap or touch such a one: bool `[window]`.

    On any channel: who speaks is heard by all microphones.

    Args:
        found: the scores, by window.
        columns: of `voice_columns`.
        least: the probability.
    """
    is_heard = found.scores[:, columns].max(axis=1) >= least
    voices = united(found.start_s[is_heard], found.end_s[is_heard])
    if not voices:
        return np.zeros(len(is_heard), bool)
    begin_s, end_s = np.array(voices).T
    # The first voice that doesn't end before a window begins.
    following = np.searchsorted(end_s, found.start_s - TOUCHING_S)
    begins_s = np.append(begin_s, np.inf)[following]
    return np.asarray(begins_s <= found.end_s + TOUCHING_S)


def without_voices(found: RecordingScores, columns: np.ndarray, least: float) -> RecordingScores:
    """A whole recording's scores without the windows that are left out, whose number and place are in its status."""
    if not len(found.scores):
        return found
    left_out = is_left_out(found, columns, least)
    spans = united(found.start_s[left_out], found.end_s[left_out])
    recording = replace(found.recording, voices=int(left_out.sum()), left_out_s=spans)
    kept = (x[~left_out] for x in (found.start_s, found.end_s, found.channel, found.scores))
    return RecordingScores(recording, *kept)


def outside(
    left_out_s: Iterable[tuple[float, float]], clip_s: tuple[float, float], kept_s: tuple[float, float]
) -> tuple[float, float]:
    """Begin and end of a clip around a part that was kept, without what was left out beside that part."""
    begin_s, end_s = clip_s
    for first_s, last_s in left_out_s:
        if first_s < kept_s[0]:
            begin_s = max(begin_s, min(last_s, kept_s[0]))
        if last_s > kept_s[1]:
            end_s = min(end_s, max(first_s, kept_s[1]))
    return begin_s, end_s


class QuietWindows:
    """As `without_voices`, of windows as they come; each is given as soon as no voice can touch it any more.

    Args:
        windows: by start.
        labels: of the model.
        least: probability of a voice; `None` gives all windows at once.
        hop_s: from the start of one window to the next.

    Raises:
        ModelError: if no label is a voice, unless `least` is `None`.
    """

    def __init__(self, windows: Iterable[LiveWindow], labels: LabelSet, least: float | None, hop_s: float):
        self._windows, self._least, self._hop_s = windows, least, hop_s
        self._columns = np.array([], int) if least is None else voice_columns(labels)
        self.left_out, self.heard_s = 0, 0.0
        """How many windows were left out so far; where the last one ended."""

    def __iter__(self) -> Iterator[LiveWindow]:
        waiting: list[LiveWindow] = []
        voice_end_s = -np.inf
        for window in self._windows:
            self.heard_s = window.end_s
            if self._least is None:
                yield window
                continue
            if window.scores[self._columns].max() >= self._least:
                voice_end_s = window.end_s
                self.left_out += len(waiting)  # all that wait touch it
                waiting = []
            if window.start_s <= voice_end_s + TOUCHING_S:
                self.left_out += 1
            else:
                waiting.append(window)
            next_s = window.start_s + self._hop_s
            while waiting and waiting[0].end_s < next_s - TOUCHING_S:
                yield waiting.pop(0)
        yield from waiting
