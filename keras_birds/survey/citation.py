"""What is said of published results: by whom they are, and how the sounds were found."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import parseaddr

import numpy as np

import keras_birds
from keras_birds.errors import ConfigError
from keras_birds.survey.published import Publication

LICENCES = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/legalcode",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/legalcode",
    "CC-BY-NC-4.0": "https://creativecommons.org/licenses/by-nc/4.0/legalcode",
}
"""That GBIF takes, and where their texts are."""


@dataclass(frozen=True)
class About:
    """What whoever publishes says of the data.

    Args:
        title: of the data set.
        contact: `Name <address>` of whom to ask.
        licence: one of `LICENCES`, of the data.
        media_licence: of the recordings; empty for that of the data.
        design: how the places were chosen, in Camtrap DP's words.
        capture: how recordings were started, in Camtrap DP's words.
        media_url: below which the recordings are on the web; empty where they aren't.

    Raises:
        ConfigError: if the contact has no name or no address, or there is no such place on the web.
    """

    title: str = ""
    contact: str = ""
    licence: str = ""
    media_licence: str = ""
    design: str = ""
    capture: str = "timeLapse"
    media_url: str = ""

    def __post_init__(self) -> None:
        if self.contact and not (self.name and "@" in self.email):
            raise ConfigError(
                f"--contact must be a name and an address, as 'Jane Doe <jane@example.org>'. Received: {self.contact}"
            )
        if self.media_url and not self.media_url.startswith(("http://", "https://")):
            raise ConfigError(
                f"--media-url must be an address on the web, as https://example.org/. Received: {self.media_url}"
            )

    @property
    def name(self) -> str:
        """Of the contact."""
        return parseaddr(self.contact)[0]

    @property
    def email(self) -> str:
        """Of the contact."""
        return parseaddr(self.contact)[1]

    @property
    def slug(self) -> str:
        """The title as a part of an address."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "sounds"


@dataclass(frozen=True)
class Method:
    """How the sounds were found.

    Args:
        model_id: of the model.
        licence: of the model; empty where it isn't told.
        least_score: that was kept.
        version: of keras-birds.
        band_hz: that the model hears, lower and upper edge; `None` where it isn't told.
    """

    model_id: str
    licence: str
    least_score: float
    version: str = keras_birds.__version__
    band_hz: tuple[float, float] | None = None

    @classmethod
    def of(cls, publication: Publication) -> "Method":
        """As the settings of the results tell."""
        settings = publication.settings
        least = float(np.min(settings["thresholds"]))
        band = settings.get("band_hz")
        return cls(
            settings["model_id"],
            settings.get("licence") or "",
            max(least, publication.min_score),
            band_hz=(band[0], band[1]) if band else None,
        )

    @property
    def sentence(self) -> str:
        """Of one line."""
        licence = f"licence {self.licence}" if self.licence else "licence unknown"
        return (
            f"Detected by keras-birds {self.version} with the model {self.model_id} ({licence}), "
            f"scores from {self.least_score:.3g}, not checked by people."
        )


def citation(about: About, method: Method, day: date | None = None) -> str:
    """One line by which to cite the data; without a title, one that tells how the sounds were found.

    Args:
        about: what is said of the data.
        method: how the sounds were found.
        day: of the publication; `None` for today.
    """
    day = day or datetime.now(UTC).date()
    who = f"{about.name} ({day.year}). {about.title}. " if about.title else ""
    return f"{who}{method.sentence} {day.isoformat()}."
