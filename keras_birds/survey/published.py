"""What of a folder of results is published: recordings of known deployments and times, sounds with scientific names."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from keras_birds.audio.recorder import Origin
from keras_birds.audio.remote import path_of
from keras_birds.birdnet.range_model import NO_SPECIES
from keras_birds.inference.scorer import RecordingStatus
from keras_birds.models.label_file import LATIN
from keras_birds.results.journal import StreamedJournal
from keras_birds.results.origin import Origins
from keras_birds.results.results import read_detections
from keras_birds.results.sites import Deployment
from keras_birds.results.voices import is_voice
from keras_birds.text import storable

if TYPE_CHECKING:
    import pyarrow as pa

HUMAN = "Homo sapiens"
Kind = Literal["animal", "human"]
_COLUMNS = ("label", "scientific_name", "common_name", "channel", "start_s", "end_s", "score", "model_id")


class Sound(NamedTuple):
    """A detection that is published.

    `kind` is what made the sound, `id` its own, the same in every publication of these results, and `start_s` and
    `end_s` are its place in the recording.
    """

    kind: Kind
    id: str
    scientific_name: str
    common_name: str
    channel: int
    start_s: float
    end_s: float
    score: float
    model_id: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recording that is published.

    Args:
        id: of its own, the same in every publication of these results and wherever the recording lies.
        recording: what became of it.
        origin: where and when it was made.
        deployment: that it is from.
        began: in local time, with its offset from UTC where that is known.
    """

    id: str
    recording: RecordingStatus
    origin: Origin
    deployment: Deployment
    began: datetime

    @property
    def name(self) -> str:
        """Of its file."""
        return path_of(self.recording.file).name

    def span(self, sound: Sound) -> tuple[datetime, datetime]:
        """The whole seconds within which a sound lies."""
        first, last = (self.began + timedelta(seconds=x) for x in (sound.start_s, sound.end_s))
        if last.microsecond:
            last += timedelta(seconds=1)
        return first.replace(microsecond=0), last.replace(microsecond=0)


class Publication:
    """Reads what is published of a folder of results, a recording at a time, and counts what isn't.

    Args:
        folder: that `keras-birds detect` left.
        deployments: each recording must be from one.
        timezone: of deployments without one of their own; empty for that which `detect` was told, if any.
        min_score: leaves out lower scores.

    Attributes:
        settings: of the results.
        timezone: of deployments without one of their own.
        left_out: how many recordings and sounds aren't published, by the reason why; this and what follows is
            complete once all are read.
        num_recordings: that are published.
        num_sounds: that are published, people's with those of animals.
        twice: recordings with the deployment, the clock's time and the name of another.
        unnamed: labels that name no species and no voice.
        on_read: is called for each recording that was read.

    Raises:
        DataError: if it is no such folder.
        ConfigError: if there is no such timezone.
    """

    def __init__(
        self, folder: Path, deployments: Sequence[Deployment], timezone: str = "", min_score: float = 0.0
    ):
        self.folder, self.deployments = folder, deployments
        self.min_score = float(np.float32(min_score))
        self._journal = StreamedJournal(folder)
        self.settings = self._journal.settings
        self.timezone = timezone or self.settings.get("timezone") or ""
        self._origins = Origins(
            deployments, timezone=self.timezone, time_pattern=self.settings.get("time_pattern")
        )
        self._by_name = {x.deployment: x for x in deployments}
        self.left_out: Counter[str] = Counter()
        self.num_recordings = self.num_sounds = self.twice = 0
        self.unnamed: set[str] = set()
        self.on_read: Callable[[], Any] = lambda: None
        self._ids: set[int] = set()

    def __len__(self) -> int:
        """How many recordings are in the results."""
        return len(self._journal.lines)

    @property
    def files(self) -> Iterable[str]:
        """Names of all recordings in the results, published or not."""
        return self._journal.lines

    def recordings(self) -> Iterator[tuple[Recorded, Iterator[Sound]]]:
        """Every recording that is published, with its sounds, to be taken before the next one's.

        Raises:
            DataError: if the tables are damaged or vanish.
        """
        self.left_out["recordings without scores"] += len(self._journal.unscored)
        for recording, batches in read_detections(self.folder, self._journal):
            # Those that a schedule skipped have no rows, but are there.
            recorded = self._recorded(recording) if recording.has_scores else None
            self.on_read()
            if recorded is not None:
                self.num_recordings += 1
                yield recorded, self._sounds(recorded, batches)

    def leave_out(self, what: str) -> None:
        """Counts a detection that a format doesn't take."""
        self.left_out[f"detections of {what}"] += 1
        self.num_sounds -= 1

    def _recorded(self, recording: RecordingStatus) -> Recorded | None:
        origin = self._origins.of(recording.file, recording.recorder)
        deployment = self._by_name.get(origin.deployment)
        if deployment is None:
            self.left_out["recordings that are from no deployment"] += 1
        elif not origin.began:
            self.left_out["recordings of which nothing tells when they began"] += 1
        else:
            name = storable(path_of(recording.file).name)
            # Not the local time, which depends on what is said of timezones.
            own = self._unique(f"{deployment.deployment}\n{recording.recorder.began}\n{name}")
            return Recorded(own, recording, origin, deployment, _began(origin))
        return None

    def _unique(self, text: str) -> str:
        number, tries = _number(text), 1
        while number in self._ids:
            tries += 1
            number = _number(f"{text}\n{tries}")
        self.twice += tries > 1
        self._ids.add(number)
        return f"{number:016x}"

    def _sounds(self, recorded: Recorded, batches: "Iterable[pa.RecordBatch]") -> Iterator[Sound]:
        for batch in batches:
            columns = [batch.column(x).to_pylist() for x in _COLUMNS]
            for label, scientific, common, channel, start_s, end_s, score, model_id in zip(
                *columns, strict=True
            ):
                if score < self.min_score:
                    continue
                kind = _kind(label, scientific)
                if kind is None:
                    self.left_out["detections of labels that name no species"] += 1
                    self.unnamed.add(label)
                    continue
                if kind == "human":
                    scientific, common = HUMAN, ""
                text = f"{label}\n{channel}\n{start_s:.3f}\n{end_s:.3f}\n{model_id}"
                self.num_sounds += 1
                own = f"{recorded.id}-{_number(text) >> 16:012x}"
                yield Sound(kind, own, scientific, common, channel, start_s, end_s, score, model_id)


@cache
def _kind(label: str, scientific_name: str) -> Kind | None:
    """What makes the sounds of a label; `None` of noises, and where no name tells."""
    if is_voice(label, scientific_name):
        return "human"
    return "animal" if LATIN.fullmatch(scientific_name) and scientific_name not in NO_SPECIES else None


def _began(origin: Origin) -> datetime:
    minutes = origin.utc_offset_min
    zone = None if minutes is None else timezone(timedelta(minutes=minutes))
    return datetime.fromisoformat(origin.began).replace(tzinfo=zone)


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
