"""Recordings made of labelled ones over background, with the truth as annotations: what clips don't show of the field.

The ideas of scaper (Salamon et al. 2017, https://doi.org/10.1109/WASPAA.2017.8170052) with the physics of sound
outdoors: a call far away is weaker, duller and more reverberant.
"""

import hashlib
import json
import math
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_birds.audio.decode import decode, header_seconds, read_part
from keras_birds.audio.outdoors import Spectrum, cut_call, find_calls, from_afar, reverberation
from keras_birds.audio.remote import file_fingerprint
from keras_birds.config import AudioConfig
from keras_birds.data.catalog import Catalog
from keras_birds.errors import AudioError, DataError

LONGEST_CALL_S, FAINTEST_DB = 5.0, -10.0
"""Longer songs are cut; calls that much below the background in their band can't be heard, and aren't there."""

_READ_S, _CROSSFADE_S, _TRIES, _PLACES_TRIED = 60.0, 1.0, 100, 100
_LEVEL_DB, _HISS_DB, _HIGHEST, _PADDING = (-45.0, -30.0), -40.0, 0.95, 1e-3


@dataclass(frozen=True)
class Scene:
    """What soundscapes are like; pairs are ranges that are drawn from evenly, distances evenly in dB.

    Args:
        count: recordings.
        seconds: of each.
        seed: of everything that is drawn; equal seeds give equal files.
        calls: in a recording, at most: those too faint to be heard, or without room, aren't there.
        overlap_max: calls at the same time, at most.
        quiet: share of each recording, in one piece, in which nothing calls.
        distance_m: of a call.
        reverb_s: time in which the answer of the place falls by 60 dB.
        snr_db: of a call at the middle distance (the geometric mean of both), in its band; drawn for a recording.
    """

    count: int = 60
    seconds: float = 60.0
    seed: int = 42
    calls: tuple[int, int] = (3, 12)
    overlap_max: int = 3
    quiet: float = 0.2
    distance_m: tuple[float, float] = (5.0, 80.0)
    reverb_s: tuple[float, float] = (0.2, 1.2)
    snr_db: tuple[float, float] = (0.0, 20.0)

    @property
    def middle_m(self) -> float:
        """The distance at which a call has the drawn SNR."""
        return math.sqrt(self.distance_m[0] * self.distance_m[1])


@dataclass(frozen=True)
class Call:
    """One call of a soundscape: a row of the table."""

    start_s: float
    end_s: float
    label: str
    low_hz: float
    high_hz: float
    snr_db: float
    distance_m: float
    source: str


@dataclass(frozen=True, eq=False)
class Soundscape:
    """A made recording, float32 `[n]`, and what is in it."""

    samples: np.ndarray
    calls: list[Call]
    too_faint: int
    no_room: int
    background: list[str]
    snr_db: float
    reverb_s: float


class SoundscapeMaker:
    """Makes soundscapes, each by itself: number k is the same whatever was made before it.

    Args:
        catalog: whose `rows` (int `[m]`) are heard. Those with secondary labels aren't: who calls when isn't known.
        rows: of the catalog.
        backgrounds: recordings in which none of the labels is heard.
        scene: what soundscapes are like.
        sample_rate_hz: of what is made.
    """

    def __init__(
        self,
        catalog: Catalog,
        rows: np.ndarray,
        backgrounds: Sequence[str],
        scene: Scene,
        sample_rate_hz: int,
    ):
        self.scene, self.rate_hz = scene, sample_rate_hz
        self._audio = AudioConfig(sample_rate_hz=sample_rate_hz)
        table = catalog.recordings.iloc[rows]
        pure = np.array(
            [not any(x != y for x in z) for y, z in zip(table["label"], table["secondary"], strict=True)]
        )
        names = np.array(catalog.relative_paths, dtype=object)[rows]
        self.mixed = int((~pure).sum())
        self._recordings: dict[str, list[tuple[str, str]]] = {}
        for label, path, name, is_pure in zip(table["label"], table["path"], names, pure, strict=True):
            if is_pure:
                self._recordings.setdefault(label, []).append((path, name))
        if not self._recordings:
            rule = "soundscapes need labelled recordings without secondary labels"
            raise DataError(f"{rule}. Received: {len(rows)} recordings, {self.mixed} of them with others")
        if not backgrounds:
            raise DataError(
                "soundscapes need background. Received: no recordings; take another folder or part"
            )
        known = {os.path.realpath(x) for x in catalog.recordings["path"]}
        if shared := [x for x in backgrounds if os.path.realpath(x) in known]:
            rule = "background must hold none of the data set's recordings"
            raise DataError(f"{rule}. Received: {len(shared)} of them, first {shared[0]}; take them out")
        self.labels = [x for x in catalog.labels if x in self._recordings]
        self.without = [x for x in catalog.labels if x in set(table["label"]) - set(self._recordings)]
        self._folders: dict[str, list[str]] = {}
        for path in backgrounds:
            self._folders.setdefault(os.path.dirname(path), []).append(path)  # noqa: PTH120 - names stay strings
        self._backgrounds = list(backgrounds)
        self._lock, self._unusable = threading.Lock(), dict[str, str]()

    @property
    def unusable(self) -> list[tuple[str, str]]:
        """Drawn recordings without a sound, or that can't be read, with the reason."""
        return sorted(self._unusable.items())

    def sources(self) -> dict[str, Any]:
        """How many recordings and backgrounds there are, and a digest of the names and sizes of each."""
        recordings = [(path, label, name) for label, x in self._recordings.items() for path, name in x]
        heard = [[label, name, file_fingerprint(path)[0]] for path, label, name in recordings]
        behind = [[Path(x).name, file_fingerprint(x)[0]] for x in self._backgrounds]
        both = {"recordings": sorted(heard), "backgrounds": behind}
        return {
            key: {"count": len(x), "sha256": hashlib.sha256(json.dumps(x).encode()).hexdigest()}
            for key, x in both.items()
        }

    def make(self, k: int) -> Soundscape:
        """Soundscape number `k`; a `DataError` if no recording that is drawn can be used."""
        scene, rng = self.scene, np.random.default_rng((self.scene.seed, k))
        snr_db, reverb_s = rng.uniform(*scene.snr_db), rng.uniform(*scene.reverb_s)
        answer = reverberation(self.rate_hz, reverb_s, rng)
        background, used = self._background(rng)
        mix, level_db, behind = background.copy(), rng.uniform(*_LEVEL_DB), Spectrum(background, self.rate_hz)
        quiet_s = scene.quiet * scene.seconds
        quiet_start_s = rng.uniform(0, scene.seconds - quiet_s)
        calls: list[Call] = []
        too_faint = no_room = 0
        for _ in range(int(rng.integers(*scene.calls, endpoint=True))):
            label, source, call = self._call(rng)
            distance_m = math.exp(rng.uniform(*np.log(scene.distance_m)))
            start = self._place(len(call), (quiet_start_s, quiet_start_s + quiet_s), calls, rng)
            if start is None:
                no_room += 1
                continue
            spectrum = Spectrum(call, self.rate_hz)
            band = spectrum.band()
            gain = math.sqrt(behind.power(band) * 10 ** (snr_db / 10) / spectrum.power(band)) * scene.middle_m
            heard = gain * from_afar(call, self.rate_hz, distance_m, answer)
            there = slice(start, start + len(call))
            powers = [Spectrum(x, self.rate_hz).power(band) for x in (heard[: len(call)], background[there])]
            found_db = 10 * math.log10(max(powers[0], 1e-300) / powers[1])  # the air may take all of it
            if found_db < FAINTEST_DB:
                too_faint += 1
                continue
            part = mix[start : start + len(heard)]
            part += heard[: len(part)]
            start_s, end_s = start / self.rate_hz, there.stop / self.rate_hz
            calls.append(Call(start_s, end_s, label, *band, found_db, distance_m, source))
        gain = 10 ** (level_db / 20) / math.sqrt(np.square(background).mean())
        gain = min(gain, _HIGHEST / np.abs(mix).max())
        calls.sort(key=lambda x: (x.start_s, x.end_s, x.label))
        return Soundscape((gain * mix).astype(np.float32), calls, too_faint, no_room, used, snr_db, reverb_s)

    def _call(self, rng: np.random.Generator) -> tuple[str, str, np.ndarray]:
        """A call of a drawn label, from a drawn recording: each label is as likely."""
        for _ in range(_TRIES):
            label = self.labels[rng.integers(len(self.labels))]
            path, name = self._recordings[label][rng.integers(len(self._recordings[label]))]
            samples = self._read(path, rng)
            spans = [] if samples is None else find_calls(samples, self.rate_hz)
            if samples is not None and spans:
                lengths = np.array([end - begin for begin, end in spans], float)
                # By their length: songs rather than clicks.
                begin, end = spans[rng.choice(len(spans), p=lengths / lengths.sum())]
                longest = round(min(LONGEST_CALL_S, self.scene.seconds) * self.rate_hz)
                begin += int(rng.integers(max(0, end - begin - longest), endpoint=True))
                span = begin, min(end, begin + longest)
                return label, name, cut_call(samples, self.rate_hz, span, spans)
            if samples is not None:
                self._tell(path, "holds no sound")
        raise self._nothing("labelled recordings", {x for y in self._recordings.values() for x, _ in y})

    def _background(self, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
        """Background as long as a soundscape, of a recording and as many others of its folder as it takes; power 1."""
        n, fade = round(self.scene.seconds * self.rate_hz), round(_CROSSFADE_S * self.rate_hz)
        sound, used, filled = np.zeros(n), list[str](), 0
        first = self._backgrounds[rng.integers(len(self._backgrounds))]
        for path in self._drawn(first, used, rng):
            samples = self._read(path, rng)
            if samples is None:
                continue
            inside = np.flatnonzero(np.abs(samples) > _PADDING * np.abs(samples).max())
            if len(inside) <= 2 * fade:
                self._tell(path, "holds less than 2 s of sound")
                continue
            part = samples[inside[0] : inside[-1] + 1].astype(float)
            part /= math.sqrt(np.square(part).mean())
            begin = max(0, filled - fade)
            ramp = np.sqrt(np.linspace(0, 1, filled - begin))  # of equal power
            sound[begin:filled] *= ramp[::-1]
            part[: len(ramp)] *= ramp
            part = part[: n - begin]
            sound[begin : begin + len(part)] += part
            filled = begin + len(part)
            used.append(path)
            if filled >= n:
                # A recorder's own noise, so that nothing is digital silence.
                return sound + rng.normal(0, 10 ** (_HISS_DB / 20), n), used
        raise self._nothing("backgrounds", set(self._backgrounds))

    def _drawn(self, first: str, used: list[str], rng: np.random.Generator) -> Iterator[str]:
        """The first, then those of its folder, each once before any comes again; any, where none of these is used."""
        yield first
        folder = self._folders[os.path.dirname(first)]  # noqa: PTH120 - names stay strings
        for k in range(_TRIES + round(self.scene.seconds)):
            pool = folder if used or not k else self._backgrounds
            for i in rng.permutation(len(pool)):
                yield pool[i]
            if k and not used:
                return

    def _read(self, path: str, rng: np.random.Generator) -> np.ndarray | None:
        """At most a minute of a recording, from a drawn place; `None` if it can't be read."""
        try:
            seconds = header_seconds(path)
            if math.isfinite(seconds) and seconds > _READ_S:
                begin_s = rng.uniform(0, seconds - _READ_S)
                samples = read_part(path, begin_s, begin_s + _READ_S, self._audio)
            else:
                samples = decode(path, self._audio).samples
        except AudioError as error:
            self._tell(path, error.reason)
            return None
        if not np.isfinite(samples).all():
            self._tell(path, "holds samples that are no numbers")
            return None
        return samples

    def _tell(self, path: str, reason: str) -> None:
        with self._lock:
            self._unusable[path] = reason

    def _nothing(self, what: str, paths: set[str]) -> DataError:
        with self._lock:
            path, reason = next(x for x in self._unusable.items() if x[0] in paths)
        return DataError(f"soundscapes need {what} that can be read and heard. Received: {path}: {reason}")

    def _place(
        self, samples: int, quiet_s: tuple[float, float], calls: list[Call], rng: np.random.Generator
    ) -> int | None:
        """First sample of a call where it keeps the rules; `None` where there seems to be no room."""
        call_s = samples / self.rate_hz
        for _ in range(_PLACES_TRIED):
            start_s = rng.uniform(0, max(0.0, self.scene.seconds - call_s))
            end_s = start_s + call_s
            if start_s < quiet_s[1] and end_s > quiet_s[0]:
                continue
            beside = [x for x in calls if x.start_s < end_s and x.end_s > start_s]
            moments = [start_s, *(x.start_s for x in beside if x.start_s > start_s)]
            most = max(sum(x.start_s <= t < x.end_s for x in beside) for t in moments)
            if most < self.scene.overlap_max:
                return min(round(start_s * self.rate_hz), round(self.scene.seconds * self.rate_hz) - samples)
        return None


def background_part(backgrounds: Sequence[str], part: int, parts: int) -> list[str]:
    """One of several parts of backgrounds, from 1: of each folder that share, neighbours by name staying together.

    So parts have the same kinds of background, and those of one source, which often are neighbours, rarely both.
    """
    folders: dict[str, list[str]] = {}
    for path in sorted(backgrounds):
        folders.setdefault(os.path.dirname(path), []).append(path)  # noqa: PTH120 - names stay strings
    found = []
    for paths in folders.values():
        ends = [len(paths) * k // parts for k in (part - 1, part)]
        found += paths[slice(*ends)]
    return found
