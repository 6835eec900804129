"""Camtrap DP 1.0.2, the camera traps' data package, as it takes sound: https://camtrap-dp.tdwg.org.

An observation is a detection in a recording, which is the medium. The standard's tables have no columns yet for where a
sound lies in its recording and in frequency (tdwg/camtrap-dp issue 450): tags tell it, `startTime` and `endTime` in
seconds as Audiovisual Core has them, `frequencyLow` and `frequencyHigh` in Hz as proposed there.

GBIF makes occurrences of observations of events, unless `gbifIngestion` asks for those of media: without it a package
of sounds has none (inbo/camtrapdp issue 195).
"""

import os
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from os.path import commonpath
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import keras_birds
from keras_birds.atomic import write_json
from keras_birds.audio.remote import is_url
from keras_birds.errors import DataError
from keras_birds.results.sites import Deployment, zone_of
from keras_birds.results.writers.files import new_text
from keras_birds.results.writers.rows import decimal, one_line, six_digits
from keras_birds.survey.citation import LICENCES, About, Method, citation
from keras_birds.survey.published import Publication, Recorded, Sound
from keras_birds.text import csv_writer, storable

VERSION = "1.0.2"

DEPLOYMENT_FIELDS = (
    *("deploymentID", "locationID", "locationName", "latitude", "longitude", "coordinateUncertainty"),
    *(
        "deploymentStart",
        "deploymentEnd",
        "setupBy",
        "cameraID",
        "cameraModel",
        "cameraDelay",
        "cameraHeight",
    ),
    *("cameraDepth", "cameraTilt", "cameraHeading", "detectionDistance", "timestampIssues", "baitUse"),
    *("featureType", "habitat", "deploymentGroups", "deploymentTags", "deploymentComments"),
)
MEDIA_FIELDS = (
    *("mediaID", "deploymentID", "captureMethod", "timestamp", "filePath", "filePublic", "fileName"),
    *("fileMediatype", "exifData", "favorite", "mediaComments"),
)
OBSERVATION_FIELDS = (
    *("observationID", "deploymentID", "mediaID", "eventID", "eventStart", "eventEnd", "observationLevel"),
    *("observationType", "cameraSetupType", "scientificName", "count", "lifeStage", "sex", "behavior"),
    *(
        "individualID",
        "individualPositionRadius",
        "individualPositionAngle",
        "individualSpeed",
        "bboxX",
        "bboxY",
    ),
    *("bboxWidth", "bboxHeight", "classificationMethod", "classifiedBy", "classificationTimestamp"),
    *("classificationProbability", "observationTags", "observationComments"),
)
"""Columns of the three tables, in the standard's order; a reader misses those that aren't there."""

_SCHEMAS = f"https://raw.githubusercontent.com/tdwg/camtrap-dp/{VERSION}"
_PATH = re.compile(r"(?=[^./~])(?:(?!\.\.).)*")
# Names that IANA or browsers know; what isn't here is `audio/` and its suffix.
_MEDIA_TYPES = {
    **dict.fromkeys(("wav", "wave", "bwf", "rf64", "bw64"), "wav"),
    **dict.fromkeys(("ogg", "oga", "opus", "spx"), "ogg"),
    **dict.fromkeys(("mp1", "mp2", "mp3", "mpa"), "mpeg"),
    **dict.fromkeys(("m4a", "m4b", "mp4"), "mp4"),
    **dict.fromkeys(("aif", "aiff", "aifc"), "aiff"),
}


def write_camtrap_dp(publication: Publication, about: About, method: Method, out: Path) -> list[Path]:
    """Writes `deployments.csv`, `media.csv`, `observations.csv`, and in the end `datapackage.json`; returns them.

    Args:
        publication: what is published.
        about: with title, contact, licence and design.
        method: how the sounds were found.
        out: a folder, made if missing.

    Raises:
        DataError: if a deployment has no timezone, as times need their offset from UTC; or as `Publication.recordings`.
        KerasBirdsError: if a file can't be written.
    """
    deployments = list(_deployment_rows(publication))
    paths = [out / f"{x}.csv" for x in ("deployments", "media", "observations")]
    species: set[str] = set()
    top = _common_folder(publication.files)
    with new_text(paths[1], "strict") as media, new_text(paths[2], "strict") as observations:
        media_rows, observation_rows = csv_writer(media), csv_writer(observations)
        media_rows.writerow(MEDIA_FIELDS)
        observation_rows.writerow(OBSERVATION_FIELDS)
        for recorded, sounds in publication.recordings():
            media_rows.writerow(_cells(MEDIA_FIELDS, _medium(recorded, about, top)))
            band = _band_tags(method, recorded.recording.sample_rate_hz)
            for sound in sounds:
                species.add(sound.scientific_name)
                observation_rows.writerow(_cells(OBSERVATION_FIELDS, _observation(recorded, sound, band)))
    with new_text(paths[0], "strict") as stream:
        rows = csv_writer(stream)
        rows.writerow(DEPLOYMENT_FIELDS)
        rows.writerows(_cells(DEPLOYMENT_FIELDS, x) for x in deployments)
    package = out / "datapackage.json"
    write_json(package, _package(publication.deployments, species, about, method))
    return [*paths, package]


def _cells(fields: tuple[str, ...], values: dict[str, Any]) -> Iterator[Any]:
    return (values.get(x, "") for x in fields)


def _deployment_rows(publication: Publication) -> Iterator[dict[str, Any]]:
    lacking = [x.deployment for x in publication.deployments if not (x.timezone or publication.timezone)]
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise DataError(
            "Camtrap DP needs the offset of every time from UTC. Received: no timezone of the deployments "
            f"{', '.join(lacking[:3])}{more}. Give --timezone, for instance Europe/Berlin, or a column timezone in the "
            "table of deployments"
        )
    for x in publication.deployments:
        zone = zone_of(x.timezone or publication.timezone)
        span = (_text(y.replace(tzinfo=zone)) for y in (x.start, x.end))
        yield {
            **{"deploymentID": x.deployment, "locationID": x.site, "locationName": x.site},
            **{"latitude": x.latitude, "longitude": x.longitude, "cameraID": x.recorder},
            **dict(zip(("deploymentStart", "deploymentEnd"), span, strict=True)),
        }


def _text(time: datetime) -> str:
    return time.isoformat(timespec="seconds")


def _medium(recorded: Recorded, about: About, top: str) -> dict[str, Any]:
    recording = recorded.recording
    path, is_public = _file_path(recording.file, about.media_url, top)
    kind = PurePath(recorded.name).suffix[1:].lower() or "x-unknown"
    comments = " ".join(x for x in (recording.reason, recorded.origin.notes) if x)
    return {
        **{"mediaID": recorded.id, "deploymentID": recorded.deployment.deployment},
        **{"captureMethod": about.capture, "timestamp": _text(recorded.began), "filePath": path},
        **{"filePublic": str(is_public).lower(), "fileName": storable(recorded.name)},
        "fileMediatype": f"audio/{_MEDIA_TYPES.get(kind, quote(os.fsencode(kind)))}",
        "mediaComments": storable(one_line(comments)),
    }


def _observation(recorded: Recorded, sound: Sound, band: str) -> dict[str, Any]:
    first, last = recorded.span(sound)
    tags = f"startTime:{decimal(sound.start_s)} | endTime:{decimal(sound.end_s)}{band}"
    event = f"{recorded.id}-{round(sound.start_s * 1000)}-{round(sound.end_s * 1000)}"
    return {
        **{"observationID": sound.id, "deploymentID": recorded.deployment.deployment},
        **{"mediaID": recorded.id, "eventID": event},
        **{"eventStart": _text(first), "eventEnd": _text(last), "observationLevel": "media"},
        **{"observationType": sound.kind, "scientificName": sound.scientific_name},
        **{"classificationMethod": "machine", "classifiedBy": sound.model_id},
        "classificationProbability": six_digits(sound.score),
        "observationTags": f"{tags} | channel:{sound.channel}" if sound.channel else tags,
    }


def _band_tags(method: Method, sample_rate_hz: int) -> str:
    """What the model hears of a recording; calls have no bounds of their own."""
    if method.band_hz is None:
        return ""
    low, high = method.band_hz
    high = min(high, sample_rate_hz / 2) if sample_rate_hz else high
    return f" | frequencyLow:{low:g} | frequencyHigh:{high:g}" if low < high else ""


def _common_folder(files: Iterable[str]) -> str:
    """The folder that holds all local recordings; empty where there is none."""
    folders = {str(Path(x).parent) for x in files if not is_url(x)}
    try:
        return commonpath(folders) if folders else ""
    except ValueError:  # some absolute, some relative, or on several disks
        return ""


def _file_path(file: str, media_url: str, top: str) -> tuple[str, bool]:
    """Where a recording is, as a URL or as a path within the package, and whether the public can get it."""
    if is_url(file):
        url = file.partition("?")[0]  # what follows may be a key
        return _escaped(url), url.startswith(("http://", "https://"))
    local = os.path.relpath(file, top) if top else file.lstrip("/")
    local = local.replace(os.sep, "/")
    if media_url:
        return f"{media_url.rstrip('/')}/{_escaped(quote(os.fsencode(local)))}", True
    return _escaped(local), False


def _escaped(path: str) -> str:
    """A path as the standard takes it: from no hidden file's or user's folder, nor upwards; escapes as in URLs."""
    if not _PATH.fullmatch(path) or storable(path) != path:
        path = quote(os.fsencode(path), safe="/:").replace("..", "%2E%2E")
        path = re.sub(r"^[./~]", lambda x: f"%{ord(x[0]):02X}", path)
    return path


def _package(
    deployments: Iterable[Deployment], species: set[str], about: About, method: Method
) -> dict[str, Any]:
    tables = ("deployments", "media", "observations")
    rows = list(deployments)
    licences = (("data", about.licence), ("media", about.media_licence or about.licence))
    return {
        "resources": [_resource(x) for x in tables],
        "profile": f"{_SCHEMAS}/camtrap-dp-profile.json",
        "name": about.slug,
        "created": _text(datetime.now(UTC)).replace("+00:00", "Z"),
        "title": about.title,
        "contributors": [{"title": about.name, "email": about.email, "role": "contact"}],
        "description": method.sentence,
        "version": "1.0",
        "keywords": ["passive acoustic monitoring", "bioacoustics"],
        "sources": [{"title": "keras-birds", "version": keras_birds.__version__}],
        "licenses": [{"name": x, "path": LICENCES[x], "scope": scope} for scope, x in licences],
        "bibliographicCitation": citation(about, method),
        "project": {
            **{"title": about.title, "samplingDesign": about.design, "captureMethod": [about.capture]},
            **{"individualAnimals": False, "observationLevel": ["media"]},
        },
        "gbifIngestion": {"observationLevel": "media"},
        "spatial": _bounds([(x.longitude, x.latitude) for x in rows]),
        "temporal": {
            "start": min(x.start for x in rows).date().isoformat(),
            "end": max(x.end - timedelta(seconds=1) for x in rows).date().isoformat(),
        },
        "taxonomic": [{"scientificName": x} for x in sorted(species)],
    }


def _resource(name: str) -> dict[str, str]:
    return {
        **{"name": name, "path": f"{name}.csv", "profile": "tabular-data-resource", "format": "csv"},
        **{"mediatype": "text/csv", "encoding": "utf-8", "schema": f"{_SCHEMAS}/{name}-table-schema.json"},
    }


def _bounds(places: list[tuple[float, float]]) -> dict[str, Any]:
    """GeoJSON of the box around places."""
    (west, east), (south, north) = ((min(x), max(x)) for x in zip(*places, strict=True))
    if (west, south) == (east, north):
        return {"type": "Point", "coordinates": [west, south]}
    corners = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    return {"type": "Polygon", "coordinates": [[list(x) for x in corners]]}
