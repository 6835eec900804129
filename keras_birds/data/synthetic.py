"""A small BirdCLEF-shaped data set made on the spot: eight invented species sing over noise and one another.

No species can be told by its loudness, the length of its recordings or the noise behind it: those are drawn
alike for all. Pitch, tempo and level vary from one recording to the next, and in a quarter of them a second species
sings too, which is listed as a secondary label.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.signal
import soundfile

from keras_birds.atomic import atomic_path
from keras_birds.data.tables import write_table
from keras_birds.labels import Label

RATE_HZ = 32_000
EXAMPLE = "test_soundscapes/example.ogg"
_TABLE, _TAXONOMY, _AUDIO = "train.csv", "taxonomy.csv", "train_audio"
_OVERLAP_SHARE, _GUEST_LEVEL, _RECORDISTS = 0.25, 0.7, 12


@dataclass(frozen=True)
class _Note:
    """One sound of a song, its start counted in the phrase.

    Each overtone is half as loud as the one below; vibrato swings the pitch by a tenth; `noise` is a band around the
    pitch instead of a tone.
    """

    start_s: float
    duration_s: float
    from_hz: float
    to_hz: float
    overtones: int = 0
    vibrato_hz: float = 0.0
    noise: bool = False


def _series(count: int, step_s: float, note: _Note) -> list[_Note]:
    return [replace(note, start_s=i * step_s) for i in range(count)]


# Some labels look like numbers, as BirdCLEF's do.
_LABELS = """
1000417,Rana clicans,Clicking Pondfrog,Amphibia
2000938,Cicada fricans,Rasping Cicada,Insecta
chabat1,Vulpes garriens,Chattering Fox,Mammalia
duehoo1,Bubo duplex,Double Hooter,Aves
falwhi1,Turdus cadens,Falling Whistler,Aves
risscl1,Cantor scandens,Scaleclimber,Aves
sewtri1,Motacilla sartor,Sewing Trillbird,Aves
wavwar1,Sylvia undans,Wavering Warbler,Aves
"""
_PHRASES = (
    _series(9, 0.11, _Note(0, 0.04, 1100, 1000, overtones=2)),
    _series(14, 0.045, _Note(0, 0.03, 8200, 8200, noise=True)),
    _series(4, 0.3, _Note(0, 0.17, 1700, 650, overtones=4)),
    [_Note(0, 0.28, 420, 400, overtones=1), _Note(0.42, 0.5, 400, 360, overtones=1)],
    _series(2, 0.5, _Note(0, 0.4, 3600, 2300)),
    [_Note(i * 0.16, 0.12, hz, hz * 1.05) for i, hz in enumerate(np.geomspace(1500, 4500, 6))],
    _series(16, 0.07, _Note(0, 0.04, 5200, 5900)),
    [_Note(0, 0.9, 2700, 2900, vibrato_hz=9.0)],
)
SPECIES = [(Label(*x.split(",")), y) for x, y in zip(_LABELS.split("\n")[1:-1], _PHRASES, strict=True)]


def make_synthetic(
    folder: Path, per_label: int = 40, seed: int = 42, progress: Callable[[int, int], None] = lambda *_: None
) -> Path:
    """Writes the data set, once: where its table is already, nothing changes.

    `train.csv`, `taxonomy.csv` and `train_audio/<label>/*.ogg` are as in BirdCLEF 2025: 32 kHz mono OGG of 3 to 9 s.

    Args:
        folder: made if need be.
        per_label: recordings of each species.
        seed: of everything that is drawn; equal seeds give equal samples.
        progress: called with the recordings done and to do.

    Returns:
        One more recording, which isn't in the table: `test_soundscapes/example.ogg`.
    """
    example = folder / EXAMPLE
    if (folder / _TABLE).is_file() and example.is_file():
        return example
    labels = [label for label, _ in SPECIES]
    for label in labels:
        (folder / _AUDIO / label.name).mkdir(parents=True, exist_ok=True)
    example.parent.mkdir(exist_ok=True)
    _write_recording(example, 5, None, 10.0, np.random.default_rng((seed, 0)))
    rows: list[dict[str, object]] = []
    jobs = [(i, k) for i in range(len(labels)) for k in range(per_label)]
    for done, (species, k) in enumerate(jobs, 1):
        rng = np.random.default_rng((seed, 1, species, k))
        has_guest = rng.random() < _OVERLAP_SHARE
        guest = (species + int(rng.integers(1, len(labels)))) % len(labels) if has_guest else None
        name = f"{labels[species].name}/SYN{species * per_label + k:05d}.ogg"
        _write_recording(folder / _AUDIO / name, species, guest, float(rng.uniform(3, 9)), rng)
        rows.append(_row(labels[species], None if guest is None else labels[guest], name, rng))
        progress(done, len(jobs))
    taxonomy = pd.DataFrame(labels).rename(columns={"name": "primary_label"})
    taxonomy.insert(1, "inat_taxon_id", range(1, len(labels) + 1))
    write_table(taxonomy, folder / _TAXONOMY)
    # Last: the table says that the recordings are all there.
    write_table(pd.DataFrame(rows), folder / _TABLE)
    return example


def _write_recording(
    path: Path, species: int, guest: int | None, seconds: float, rng: np.random.Generator
) -> None:
    samples = _noise(round(seconds * RATE_HZ), rng)
    for singer, level in ((species, 1.0), (guest, _GUEST_LEVEL)):
        if singer is not None:
            samples += level * _song(SPECIES[singer][1], len(samples), rng)
    samples *= rng.uniform(0.2, 0.9) / np.abs(samples).max()
    with atomic_path(path) as temporary:
        soundfile.write(temporary, samples, RATE_HZ, format="OGG", subtype="VORBIS")


def _noise(n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Wind (low) and rustling (high), each at a level of its own, 6 to 26 dB under a song."""
    white = rng.normal(0, 1, (2, n_samples))
    bands = (
        scipy.signal.butter(2, 600, "lowpass", fs=RATE_HZ, output="sos"),
        scipy.signal.butter(2, (1500, 12_000), "bandpass", fs=RATE_HZ, output="sos"),
    )
    filtered = [scipy.signal.sosfilt(band, source) for band, source in zip(bands, white, strict=True)]
    return np.sum([x / x.std() * 10 ** (-rng.uniform(6, 26) / 20) / 2 for x in filtered], axis=0)


def _song(phrase: list[_Note], n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Phrases with pauses between, at a pitch and tempo that the individual keeps."""
    song = np.zeros(n_samples)
    pitch, tempo, level = rng.uniform(0.88, 1.14), rng.uniform(0.85, 1.2), rng.uniform(0.4, 1.0)
    length_s = max(note.start_s + note.duration_s for note in phrase) * tempo
    place_s = rng.uniform(0, 0.8)
    while place_s * RATE_HZ < n_samples:
        for note in phrase:
            start = round((place_s + note.start_s * tempo) * RATE_HZ)
            sound = _sound(note, pitch * rng.uniform(0.99, 1.01), tempo, rng)[: max(0, n_samples - start)]
            song[start : start + len(sound)] += level * sound
        place_s += length_s + rng.uniform(0.3, 1.2)
    return song


def _sound(note: _Note, pitch: float, tempo: float, rng: np.random.Generator) -> np.ndarray:
    n_samples = round(note.duration_s * tempo * RATE_HZ)
    t = np.arange(n_samples) / RATE_HZ
    hz = pitch * np.geomspace(note.from_hz, note.to_hz, n_samples)
    if note.vibrato_hz:
        hz = hz * (1 + 0.1 * np.sin(2 * np.pi * note.vibrato_hz * t))
    phase = 2 * np.pi * np.cumsum(hz) / RATE_HZ
    sound = sum(0.5**k * np.sin((k + 1) * phase) for k in range(note.overtones + 1))
    if note.noise:  # of some hundred Hz, moved up to the pitch
        sound = sound * scipy.signal.lfilter([0.15], [1, -0.85], rng.normal(0, 1, n_samples))
    return np.asarray(sound) * np.hanning(n_samples)


def _row(label: Label, guest: Label | None, name: str, rng: np.random.Generator) -> dict[str, object]:
    """A row of `train.csv`, with BirdCLEF's columns in their order."""
    recordist = int(rng.integers(_RECORDISTS))
    return {
        "primary_label": label.name,
        "secondary_labels": [guest.name if guest else ""],
        "type": ["song"],
        "filename": name,
        "collection": "SYN",
        "rating": float(rng.integers(2, 11)) / 2,
        "url": "",
        "latitude": round(4.0 + 0.31 * recordist, 4),
        "longitude": round(-74.0 + 0.17 * recordist, 4),
        "scientific_name": label.scientific_name,
        "common_name": label.common_name,
        "author": f"Recordist {recordist + 1}",
        "license": "cc0 1.0",
    }
