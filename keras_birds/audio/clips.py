"""Recordings become clips of one length: fill what is short, crop what is long, slide over the rest."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from keras_birds.config import AudioConfig
from keras_birds.errors import ConfigError

MIN_TAIL_S = 1.0
"""A last partial window shorter than this, as the model hears it, is dropped when the recording holds a full one."""

TOUCHING_S = 1e-6
"""How far apart windows that touch may be: times are rounded."""


def fill(samples: np.ndarray, clip_samples: int, how: str = "repeat") -> np.ndarray:
    """Repeats `[n]` samples, n >= 1, until they fill a clip, or with `"silence"` adds zeros (`audio.fill`).

    What is long enough is returned as it is.
    """
    if len(samples) == 0:
        raise ValueError("samples must hold at least one sample. Received: none")
    if len(samples) >= clip_samples:
        return samples
    if how == "silence":
        return np.pad(samples, (0, clip_samples - len(samples)))
    return np.tile(samples, -(-clip_samples // len(samples)))[:clip_samples]


def center(samples: np.ndarray, clip_samples: int, how: str = "repeat") -> np.ndarray:
    """The middle `[clip_samples]` of a recording, filled first where it is shorter; `how` as for `fill`."""
    samples = fill(samples, clip_samples, how)
    start = crop_start(len(samples), clip_samples)
    return samples[start : start + clip_samples]


def crop_start(
    n_samples: int, clip_samples: int, position: float | None = None, snap_samples: int = 1
) -> int:
    """Where a crop of `clip_samples` begins in a recording of `n_samples`.

    Args:
        position: `None` for the centre, else 0 to 1, spread evenly over the possible starts.
        snap_samples: starts are multiples of this, for instance a mel hop.
    """
    spare = max(0, n_samples - clip_samples)
    if position is None:
        start = min(spare, max(0, n_samples // 2 - clip_samples // 2))
        return start // snap_samples * snap_samples
    if not 0 <= position <= 1:
        raise ValueError(f"position must be from 0 to 1. Received: position={position}")
    starts = spare // snap_samples + 1
    return min(int(position * starts), starts - 1) * snap_samples


def window_hop_samples(audio: AudioConfig, overlap_s: float = 0.0) -> int:
    """Samples from the start of one window to the next, at least 1, or a `ConfigError`.

    The overlap counts in the recording's own seconds.
    """
    is_valid = 0 <= overlap_s < audio.window_s  # NaN is refused as well
    hop_samples = audio.clip_samples - round(overlap_s * audio.resample_hz) if is_valid else 0
    if hop_samples < 1:
        of_speed = (
            "" if audio.speed == 1 else f", which at a speed of {audio.speed:g} holds {audio.clip_s:g} s"
        )
        raise ConfigError(
            f"overlap must be at least 0 and less than the clip's {audio.window_s:g} s{of_speed}. Received: "
            f"{overlap_s:g}"
        )
    return hop_samples


@dataclass(frozen=True)
class Window:
    """One window of a recording, as it is scored.

    Args:
        n_samples: how much of the recording it holds; less than a clip only in a last partial window.
        channel: from 1; 0 for the mean over channels.
        clip: float32 `[clip_samples]`, filled as in training.
    """

    start_samples: int
    n_samples: int
    channel: int
    clip: np.ndarray


def window_spans(n_samples: int, audio: AudioConfig, overlap_s: float = 0.0) -> list[tuple[int, int]]:
    """Start and length of the windows that `sliding_windows` cuts from a recording of `n_samples`."""
    clip_samples, hop_samples = audio.clip_samples, window_hop_samples(audio, overlap_s)
    spans = [(start, clip_samples) for start in range(0, n_samples - clip_samples + 1, hop_samples)]
    start = len(spans) * hop_samples
    end, left = sum(spans[-1]) if spans else 0, n_samples - start
    if left > 0 and (not spans or (end < n_samples and left >= MIN_TAIL_S * audio.sample_rate_hz)):
        spans.append((start, left))
    return spans


def united(start_s: np.ndarray, end_s: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Begin and end of the parts that windows cover, of windows by start; seconds."""
    spans: list[tuple[float, float]] = []
    for begin, end in zip(start_s.tolist(), end_s.tolist(), strict=True):
        if spans and begin <= spans[-1][1] + TOUCHING_S:
            spans[-1] = spans[-1][0], max(spans[-1][1], end)
        else:
            spans.append((begin, end))
    return tuple(spans)


def sliding_windows(
    blocks: Iterable[np.ndarray],
    audio: AudioConfig,
    overlap_s: float = 0.0,
    channel_ids: Sequence[int] = (0,),
) -> Iterator[Window]:
    """Cuts a recording into windows as prediction scores them, by start and channel, while it is being decoded.

    All windows are full but the last, which is filled as `audio.fill` says, as in training. That one is there
    when it holds samples that no full window holds, and is `MIN_TAIL_S` long or the only one. At most a window and a
    block are in memory.

    Args:
        blocks: float32 `[n, channels]` as of `as_taken`, in order.
        audio: the clip's length, and how it is filled.
        overlap_s: how much each window shares with the one before; raises as `window_hop_samples`.
        channel_ids: what the columns of the blocks are.
    """
    clip_samples, hop_samples = audio.clip_samples, window_hop_samples(audio, overlap_s)
    min_tail_samples = max(1, round(MIN_TAIL_S * audio.sample_rate_hz))
    held = np.zeros((0, len(channel_ids)), np.float32)
    held_start = start = 0
    for block in blocks:
        held = np.concatenate([held[start - held_start :], block])
        held_start = start
        while start + clip_samples <= held_start + len(held):
            first = start - held_start
            for k, number in enumerate(channel_ids):
                yield Window(start, clip_samples, number, held[first : first + clip_samples, k])
            start += hop_samples
    end = held_start + len(held)
    left = end - start
    is_new = start == 0 or (start - hop_samples + clip_samples < end and left >= min_tail_samples)
    if left > 0 and is_new:
        for k, number in enumerate(channel_ids):
            yield Window(start, left, number, fill(held[start - held_start :, k], clip_samples, audio.fill))
