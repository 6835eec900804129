"""A Darwin Core archive of occurrences: `occurrence.txt`, what its columns mean, and who publishes it.

Terms: https://dwc.tdwg.org/list; the form: https://dwc.tdwg.org/text; the metadata: GBIF's profile of EML. GBIF needs
an `occurrenceID`, `basisOfRecord`, `scientificName` and `eventDate` of each row. People aren't published here.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.sax.saxutils import escape

from keras_birds.audio.remote import is_url
from keras_birds.results.sites import Deployment
from keras_birds.results.writers.files import new_text
from keras_birds.results.writers.rows import decimal, one_line
from keras_birds.survey.citation import LICENCES, About, Method, citation
from keras_birds.survey.published import Publication, Recorded, Sound
from keras_birds.text import storable

_DWC, _DC = "http://rs.tdwg.org/dwc/terms/", "http://purl.org/dc/terms/"
TERMS = {
    **{"occurrenceID": _DWC, "type": _DC, "license": _DC, "datasetName": _DWC, "basisOfRecord": _DWC},
    **dict.fromkeys(("occurrenceStatus", "eventID", "parentEventID", "eventDate", "samplingProtocol"), _DWC),
    **dict.fromkeys(("sampleSizeValue", "sampleSizeUnit", "locationID", "locality"), _DWC),
    **dict.fromkeys(("decimalLatitude", "decimalLongitude", "geodeticDatum", "identifiedBy"), _DWC),
    **dict.fromkeys(("identificationVerificationStatus", "identificationRemarks"), _DWC),
    **dict.fromkeys(("scientificName", "kingdom", "vernacularName", "associatedMedia"), _DWC),
    "occurrenceRemarks": _DWC,
}
"""Columns of `occurrence.txt` in order, and of which vocabulary each is."""


def write_darwin_core(publication: Publication, about: About, method: Method, out: Path) -> list[Path]:
    """Writes `occurrence.txt`, `meta.xml` and `eml.xml`; returns them.

    Args:
        publication: what is published.
        about: with title, contact and licence.
        method: how the sounds were found.
        out: a folder, made if missing.

    Raises:
        DataError: as `Publication.recordings`.
        KerasBirdsError: if a file can't be written.
    """
    paths = [out / x for x in ("occurrence.txt", "meta.xml", "eml.xml")]
    with new_text(paths[0], "strict") as stream:
        stream.write("\t".join(TERMS) + "\n")
        for recorded, sounds in publication.recordings():
            same = _of_recording(recorded, about)
            for sound in sounds:
                if sound.kind != "animal":
                    publication.leave_out("people's voices")
                    continue
                cells = same | _of_sound(recorded, sound)
                stream.write("\t".join(one_line(cells.get(x, "")) for x in TERMS) + "\n")
    for path, text in zip(paths[1:], (_meta(), _eml(publication, about, method)), strict=True):
        with new_text(path, "strict") as stream:
            stream.write(text)
    return paths


def _of_recording(recorded: Recorded, about: About) -> dict[str, str]:
    place, file = recorded.deployment, recorded.recording.file
    is_public = is_url(file) and file.startswith(("http://", "https://"))
    return {
        **{"type": "Sound", "license": LICENCES[about.licence], "datasetName": about.title},
        **{"basisOfRecord": "MachineObservation", "occurrenceStatus": "present", "kingdom": "Animalia"},
        **{"parentEventID": place.deployment, "samplingProtocol": "passive acoustic monitoring"},
        **{"sampleSizeValue": decimal(recorded.recording.scored_s), "sampleSizeUnit": "second"},
        **{"locationID": place.site, "locality": place.site, "geodeticDatum": "EPSG:4326"},
        **{"decimalLatitude": str(place.latitude), "decimalLongitude": str(place.longitude)},
        **{"eventID": recorded.id, "identificationVerificationStatus": "unverified"},
        "associatedMedia": storable(file.partition("?")[0]) if is_public else "",
    }


def _of_sound(recorded: Recorded, sound: Sound) -> dict[str, str]:
    first, last = recorded.span(sound)
    name, channel = storable(recorded.name), f", channel {sound.channel}" if sound.channel else ""
    return {
        "occurrenceID": sound.id,
        "eventDate": f"{first.isoformat()}/{last.isoformat()}",
        "identifiedBy": sound.model_id,
        "identificationRemarks": f"classified by a machine, score {sound.score:.3g}",
        "scientificName": sound.scientific_name,
        "vernacularName": sound.common_name,
        "occurrenceRemarks": f"{name}, {decimal(sound.start_s)} to {decimal(sound.end_s)} s{channel}",
    }


def _meta() -> str:
    fields = "".join(
        f'    <field index="{k}" term="{vocabulary}{term}"/>\n'
        for k, (term, vocabulary) in enumerate(TERMS.items())
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<archive xmlns="http://rs.tdwg.org/dwc/text/" metadata="eml.xml">
  <core encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" fieldsEnclosedBy="" ignoreHeaderLines="1" \
rowType="{_DWC}Occurrence">
    <files>
      <location>occurrence.txt</location>
    </files>
    <id index="0"/>
{fields}  </core>
</archive>
"""


def _eml(publication: Publication, about: About, method: Method) -> str:
    """GBIF's least: title, creator, language, abstract, licence, contact; and where and when."""
    given, _, surname = about.name.rpartition(" ")
    person = "".join(
        (
            "<individualName>",
            f"<givenName>{escape(given)}</givenName>" if given else "",
            f"<surName>{escape(surname)}</surName></individualName>",
            f"<electronicMailAddress>{escape(about.email)}</electronicMailAddress>",
        )
    )
    now = datetime.now(UTC)
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<eml:eml xmlns:eml="eml://ecoinformatics.org/eml-2.1.1" packageId="{about.slug}/{now.date().isoformat()}" \
system="http://gbif.org" scope="system" xml:lang="eng">
  <dataset>
    <title>{escape(about.title)}</title>
    <creator>{person}</creator>
    <metadataProvider>{person}</metadataProvider>
    <pubDate>{now.date().isoformat()}</pubDate>
    <language>eng</language>
    <abstract><para>{escape(method.sentence)}</para></abstract>
    <intellectualRights><para>This work is licensed under <ulink url="{LICENCES[about.licence]}">\
<citetitle>{about.licence}</citetitle></ulink>.</para></intellectualRights>
    <coverage>
{_coverage(publication.deployments)}
    </coverage>
    <contact>{person}</contact>
  </dataset>
  <additionalMetadata><metadata><gbif>
    <dateStamp>{now.isoformat(timespec="seconds")}</dateStamp>
    <hierarchyLevel>dataset</hierarchyLevel>
    <citation>{escape(citation(about, method))}</citation>
  </gbif></metadata></additionalMetadata>
</eml:eml>
"""


def _coverage(deployments: Sequence[Deployment]) -> str:
    """Where, by the box around the deployments, and when."""
    places = [(x.longitude, x.latitude) for x in deployments]
    (west, east), (south, north) = ((min(x), max(x)) for x in zip(*places, strict=True))
    sites = ", ".join(dict.fromkeys(x.site for x in deployments))
    first, last = min(x.start for x in deployments), max(x.end for x in deployments) - timedelta(seconds=1)
    dates = "".join(
        f"<{name}><calendarDate>{x.date().isoformat()}</calendarDate></{name}>"
        for name, x in (("beginDate", first), ("endDate", last))
    )
    bounds = "".join(
        f"<{name}BoundingCoordinate>{x}</{name}BoundingCoordinate>"
        for name, x in (("west", west), ("east", east), ("north", north), ("south", south))
    )
    where = f"<geographicDescription>{escape(sites)}</geographicDescription>"
    return f"""      <geographicCoverage>{where}<boundingCoordinates>{bounds}</boundingCoordinates></geographicCoverage>
      <temporalCoverage><rangeOfDates>{dates}</rangeOfDates></temporalCoverage>"""
