"""What `keras-birds detect` does with each of its models: loads it, scores recordings, and counts what is found."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from keras_birds.cli.batch import Counter, scoring
from keras_birds.cli.options import Command, ModelChoice, bundled, warn
from keras_birds.cli.origin_options import OriginChoice, OriginCounter
from keras_birds.cli.rules_options import PlaceChoice, RulesChoice

if TYPE_CHECKING:
    from rich.progress import Progress

    from keras_birds.audio.schedule import Schedule
    from keras_birds.embeddings.scoring import StoredRecordings
    from keras_birds.inference.classifier import Classifier
    from keras_birds.inference.scorer import RecordingStatus, ScoreOptions
    from keras_birds.results.detections import DetectionRules
    from keras_birds.results.joined import JoinedResults
    from keras_birds.results.occurrence import Occurrence
    from keras_birds.results.results import Results


def schedule_options(command: Command) -> Command:
    """Adds `--when` and `--sample`; the command gets a `Schedule` as `schedule`, `None` where all is scored."""

    def make(when: str | None, sample: str | None) -> "Schedule | None":
        from keras_birds.audio.schedule import Schedule

        return Schedule(when or "", sample or "") if when or sample else None

    moments = (
        "Score only what was recorded then: dusk-dawn, night, day, dawn, dusk, or 22:00-04:00 (local time)."
    )
    minutes = "Score only the first minute of every ten of the clock (1/10): a quick look."
    return bundled(
        command,
        "schedule",
        make,
        click.option("--when", metavar="WORD|TIMES", help=moments),
        click.option("--sample", metavar="M/N", help=minutes),
    )


@dataclass(frozen=True)
class Where:
    """What is said of where and when recordings were made, and what that decides."""

    place: PlaceChoice
    origin: OriginChoice
    schedule: "Schedule | None"

    def occurrence(self, classifier: "Classifier") -> "Occurrence | None":
        """What occurs there; without a range model nobody asks where a place is given for the sun."""
        from keras_birds.errors import ModelError

        try:
            return self.place.read(classifier, self.origin.sites is not None)
        except ModelError:
            asks = self.place.week is not None or self.place.least is not None
            if self.schedule is None or not self.schedule.when or asks:
                raise
        warn(
            "no range model", "every label counts at every place; `keras-birds models add birdnet` brings one"
        )
        return None


@dataclass(frozen=True)
class Task:
    """Recordings, and how they are scored.

    Args:
        files: their names.
        score: how they are cut.
        ray_address: of a cluster; `None` for here.
        table: what rows of a table of places are, as of `OriginCounter`.
        stored: what scores them in place of sound.
        members: as of `Results`.
    """

    files: list[str]
    score: "ScoreOptions"
    ray_address: str | None
    table: str
    stored: "StoredRecordings | None" = None
    members: int = 0


@dataclass(frozen=True)
class LoadedModel:
    """A model, and what of its scores becomes a detection."""

    choice: ModelChoice
    classifier: "Classifier"
    rules: "DetectionRules"

    @classmethod
    def load(cls, choice: ModelChoice, rules: RulesChoice, where: Where, **others: Any) -> "LoadedModel":
        """Loads the model, and reads the rules for its labels."""
        classifier = choice.load()
        others |= {"occurrence": where.occurrence(classifier)}
        return cls(choice, classifier, rules.read(classifier.labels, **others))

    def score_into(self, results: "Results", task: Task) -> "DetectionCounter":
        """Scores what is still to do."""
        from keras_birds.cli.reporting import progress_bar
        from keras_birds.inference.members import MemberScorer

        scorer = MemberScorer if task.members else None
        run_on = (self.classifier, self.choice, task.score, task.ray_address, scorer)
        with scoring(*run_on) as run, progress_bar() as bar:
            origins = OriginCounter(self.rules.occurrence is not None, task.table, asks_when=True)
            counter = DetectionCounter(results, len(task.files), bar, origins)
            if stored := task.stored:
                to_do = results.to_do(task.files, stored.fingerprint)
                counter.take(stored.score, self.classifier, to_do, task.score)
            else:
                scored_by = scorer(self.classifier) if scorer else self.classifier
                counter.take(run, scored_by, results.to_do(task.files), task.score)
        return counter


def score_each(
    joined: "JoinedResults", models: Sequence[LoadedModel], settings: Sequence[dict[str, Any]], task: Task
) -> "list[DetectionCounter]":
    """Scores recordings by one model after the other, each into a folder of its own, and joins what they say."""
    from keras_birds.results.results import Results

    for line in _describe_labels(joined, models):
        click.echo(line, err=True)
    counters: list[DetectionCounter] = []
    not_seen: dict[str, str] = {}
    for k, (model, made) in enumerate(zip(models, settings, strict=True)):
        name, labels = model.classifier.model_id, model.classifier.labels
        folder = joined.folder_of(k)
        with Results(folder, labels, name, model.rules, made, made["keep_scores"]) as results:
            counters.append(model.score_into(results, task))
            results.finish()
        if k == 0:
            not_seen = {x.file: x.not_seen for x in results.recordings if x.not_seen}
        click.echo(f"{name}: {counters[-1].summary()}", err=True)
    for _ in joined.join(not_seen):
        pass
    click.echo(_describe_agreement(joined), err=True)
    return counters


def _describe_labels(joined: "JoinedResults", models: Sequence[LoadedModel]) -> Iterator[str]:
    for k, model in enumerate(models):
        if only := joined.common.only(k):
            what = "are left out with --agree" if joined.least > 1 else "stay, as that model alone says them"
            yield (
                f"{len(only)} of {len(model.classifier.labels)} labels of {model.classifier.model_id} are of no other "
                f"model, for instance {only[0]}: they {what}"
            )


def _describe_agreement(joined: "JoinedResults") -> str:
    said = [f"{n} said by {k}" for k, n in enumerate(joined.said_by) if k >= joined.least]
    return f"Joined: {joined.said_by.sum()} new detections, {', '.join(said)} of {len(said) + joined.least - 1} models"


class DetectionCounter(Counter):
    """Counts detections, and what is left out of them, as well."""

    detections = unlikely = voices = 0

    def __init__(self, results: "Results", total: int, bar: "Progress", origins: OriginCounter):
        super().__init__(results, total, bar)
        self._origins = origins

    def count(self, recording: "RecordingStatus") -> None:
        """Takes a scored recording."""
        self.detections += recording.detections
        self.voices += recording.voices
        self.unlikely += recording.unlikely
        self._origins.add(recording)

    def new(self) -> str:
        """Detections, and why there aren't more."""
        parts = [f"{self.detections} new detections"]
        if self.unlikely:
            parts.append(f"{self.unlikely} left out as unlikely where and when they were recorded")
        if self.voices:
            parts.append(f"{self.voices} windows left out because of voices")
        return "; ".join([*parts, *self._origins.told()])
