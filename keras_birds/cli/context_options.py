"""Options of what becomes of a window's scores by those of other windows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from keras_birds.cli.options import COUNT, Command, ModelChoice, bundled

if TYPE_CHECKING:
    from keras_birds.models.ensemble import Ensemble
    from keras_birds.results.context import Context

_RANK = "rank"


@dataclass(frozen=True)
class ContextChoice:
    """What `context_options` say."""

    smooth_windows: int
    file_level: int | None
    average: str

    @property
    def is_given(self) -> bool:
        """Whether anything is to be done."""
        return (self.smooth_windows, self.file_level, self.average) != (1, None, "mean")

    def read(self) -> "Context":
        """As the library takes it; a `ConfigError` if a number is out of range."""
        from keras_birds.results.context import Context

        return Context(self.smooth_windows, self.file_level)

    def by_rank(self, model: ModelChoice, ensemble: "Ensemble") -> bool:
        """Whether an ensemble is averaged by rank; a `UsageError` where that can't be."""
        if self.average != _RANK:
            return False
        if model.calibrated or model.sensitivity != 1:
            option = "--calibrated" if model.calibrated else "--sensitivity"
            rule = "--average rank takes scores as the models give them"
            raise click.UsageError(f"{rule}. Received: {option} as well")
        if len(ensemble.engines) < 2:
            raise click.UsageError("--average rank needs a run of several folds. Received: one model")
        return True


def context_options(command: Command) -> Command:
    """Adds `--smooth`, `--file-level` and `--average`; the command gets a `ContextChoice` as `in_context`."""
    smooth = (
        "Take the mean score over N neighbouring windows, an odd number; nearer ones count more (3: 1:2:1)."
    )
    level = (
        "Then take each score times the mean of the label's K best windows in the same minute of the recording, as "
        "BirdCLEF's competitors weigh one-minute files. [default: not]"
    )
    average = "Average a run's folds by probability, or each label's windows by their rank."
    return bundled(
        command,
        "in_context",
        ContextChoice,
        click.option("--smooth", "smooth_windows", type=COUNT, default=1, metavar="N", help=smooth),
        click.option("--file-level", type=COUNT, metavar="K", help=level),
        click.option("--average", type=click.Choice(("mean", _RANK)), default="mean", help=average),
    )
