"""What is published is as Camtrap DP, Darwin Core and eBird ask, whose rules are told here."""

import csv
import json
import re
from datetime import datetime
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from placeholder import LABELS, make_metadata, write_constant_model

from keras_birds.audio.recorder import UNKNOWN, UNTOLD, RecorderMetadata
from keras_birds.inference.scorer import RecordingScores, RecordingStatus
from keras_birds.labels import Label, LabelSet
from keras_birds.results.detections import DetectionRules
from keras_birds.results.results import Results
from keras_birds.results.sites import Deployment
from keras_birds.survey import ebird
from keras_birds.survey.camtrap_dp import DEPLOYMENT_FIELDS, MEDIA_FIELDS, OBSERVATION_FIELDS
from keras_birds.survey.citation import Method
from keras_birds.survey.ebird import write_ebird
from keras_birds.survey.published import Publication, Recorded, Sound

NAMES = LabelSet(
    [*LABELS.items, Label("Human vocal_Human vocal", "Human vocal", "Human vocal"), Label("rain")]
)
FROG, DOVE, PAURAQUE, _, VOICE, RAIN = range(len(NAMES))
ABOUT = ("--title", "Spree, 2025", "--contact", "Jane Doe <jane@example.org>", "--licence", "CC-BY-4.0")
CAMTRAP = ("camtrap-dp", *ABOUT, "--design", "targeted", "--timezone", "Europe/Berlin")
UTC = RecorderMetadata("GUANO", "2025-06-01T03:30:00.250+00:00")
# File, what it tells itself, and begin, end, label and score of each detection.
RECORDINGS = (
    ("/rec/A/dawn_20250601_053000.WAV", UTC, [(0, 3, DOVE, 0.9), (2.5, 5.5, VOICE, 0.6), (5, 8, RAIN, 0.7)]),
    ("/rec/A/20250601_235955.wav", UNTOLD, [(0, 3, DOVE, 0.5), (6, 9, PAURAQUE, 0.75), (6, 9, FROG, 0.8)]),
    ("/rec/B/..x/20250602_053000.flac", UNTOLD, []),
    ("/rec/C/20250602_053000.wav", UNTOLD, [(0, 3, DOVE, 0.9)]),
    ("/rec/B/no-time.wav", UNTOLD, [(0, 3, DOVE, 0.9)]),
)
DEPLOYMENTS = """deployment,site,latitude,longitude,start,end,pattern,recorder
d1,"Old ""Pond"", north",51.2,13.1,2025-06-01,2025-06-02,A,S4A1
d2,Hill,51.25,13.2,2025-06-01 12:00,2025-06-03,B,
"""


def write_results(folder, recordings):
    """What `detect` leaves of recordings, one that failed and one skipped."""
    settings = {"model_id": "demo-1", "thresholds": 0.5, "licence": "CC0", "band_hz": [50.0, 14_000.0]}
    with Results(folder, NAMES, "demo-1", DetectionRules.of(NAMES, 0.5), settings) as found:
        for file, recorder, rows in recordings:
            status = RecordingStatus(file, "ok", seconds=10.0, sample_rate_hz=24_000, recorder=recorder)
            start_s, end_s, label, score = np.array(rows, float).reshape(-1, 4).T
            scores = np.zeros((len(rows), len(NAMES)), np.float32)
            scores[np.arange(len(rows)), label.astype(int)] = score
            found.add(RecordingScores(status, start_s, end_s, np.zeros(len(rows), np.int16), scores))
        for file, status in (("x.wav", "corrupt"), ("20250601_120000.wav", "skipped")):
            unscored = RecordingStatus(f"/rec/A/{file}", status, seconds=10.0)
            found.add(RecordingScores(unscored, *[np.zeros(0)] * 3, np.zeros((0, 6))))
        found.finish()
    return folder


@pytest.fixture
def publish(tmp_path, run_command):
    """Runs `publish` on results of `RECORDINGS`: texts by file's name, and stderr."""
    write_results(tmp_path / "results", RECORDINGS)
    (tmp_path / "deployments.csv").write_text(DEPLOYMENTS)

    def call(form, *more, code=0, out="out"):
        places = "--deployments", tmp_path / "deployments.csv", "--out", tmp_path / out
        ended, _, err = run_command("publish", tmp_path / "results", "--format", form, *places, *more)
        assert ended == code, err
        files = (tmp_path / out).iterdir() if (tmp_path / out).is_dir() else ()
        return {x.name: x.read_text("utf-8") for x in files} | {"stderr": err}

    return call


def table(text, **options):
    return list(csv.DictReader(text.splitlines(), **options))


def lines(rows, columns):
    """Some cells of each row."""
    return [" / ".join(x[name] for name in columns.split()) for x in rows]


# Camtrap DP 1.0.2: each column with its type, `!` where it must be filled, and what it may be.
TABLES = {
    "deployments": """deploymentID:key! locationID locationName latitude:-90..90! longitude:-180..180!
        coordinateUncertainty:int1.. deploymentStart:time! deploymentEnd:time! setupBy cameraID cameraModel
        cameraDelay:int0.. cameraHeight:0.. cameraDepth:0.. cameraTilt:int-90..90 cameraHeading:int0..360
        detectionDistance:0.. timestampIssues:boolean baitUse:boolean featureType:roadPaved|roadDirt|culvert|nestSite
        habitat deploymentGroups deploymentTags deploymentComments""",
    "media": """mediaID:key! deploymentID:deployments! captureMethod:activityDetection|timeLapse timestamp:time!
        filePath! filePublic:boolean! fileName fileMediatype! exifData favorite:boolean mediaComments""",
    "observations": """observationID:key! deploymentID:deployments! mediaID:media eventID eventStart:time!
        eventEnd:time! observationLevel:media|event! observationType:animal|human|vehicle|blank|unknown|unclassified!
        cameraSetupType:setup|calibration scientificName count:int1.. lifeStage:adult|subadult|juvenile
        sex:female|male behavior individualID individualPositionRadius:0.. individualPositionAngle:-90..90
        individualSpeed:0.. bboxX:0..1 bboxY:0..1 bboxWidth:1e-15..1 bboxHeight:1e-15..1
        classificationMethod:human|machine classifiedBy classificationTimestamp:time
        classificationProbability:0..1 observationTags observationComments""",
}
TYPES = {"time": "datetime", "boolean": "boolean"}
PATTERNS = {"filePath": r"^(?=^[^./~])(^((?!\.{2}).)*$).*$", "fileMediatype": r"^(image|video|audio)/.*$"}


def table_schema(columns):
    """A table schema, of rules as in `TABLES`."""
    fields, keys = [], []
    for name, kind, needed in re.findall(r"(\w+):?([^\s!]*)(!?)", columns):
        limits = {"required": bool(needed), "unique": kind == "key"}
        limits |= {"pattern": PATTERNS[name]} if name in PATTERNS else {}
        field = {"name": name, "type": TYPES.get(kind, "string"), "constraints": limits}
        if kind == "time":
            field["format"] = "%Y-%m-%dT%H:%M:%S%z"
        elif ".." in kind:
            field["type"] = "integer" if kind.startswith("int") else "number"
            bounds = zip(("minimum", "maximum"), kind.removeprefix("int").split(".."), strict=True)
            limits |= {x: float(y) for x, y in bounds if y}
        elif "|" in kind:
            limits["enum"] = kind.split("|")
        elif kind in TABLES:
            keys.append({"fields": name, "reference": {"resource": kind, "fields": name}})
        fields.append(field)
    return {"fields": fields, "primaryKey": fields[0]["name"], "foreignKeys": keys, "missingValues": [""]}


def test_a_camtrap_package_is_valid(publish, tmp_path):
    frictionless = pytest.importorskip("frictionless", reason="frictionless, which checks, isn't installed")
    publish(*CAMTRAP)
    package = json.loads((tmp_path / "out" / "datapackage.json").read_text())
    version = "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0.2"
    assert package.pop("profile") == f"{version}/camtrap-dp-profile.json"
    for resource in package["resources"]:
        assert resource["schema"] == f"{version}/{resource['name']}-table-schema.json"
        resource["schema"] = table_schema(TABLES[resource["name"]])
    report = frictionless.Package(package, basepath=str(tmp_path / "out")).validate()
    assert report.valid, report.flatten(["fieldName", "rowNumber", "message"])
    assert [(x.name, x.stats["rows"]) for x in report.tasks] == list(zip(TABLES, (2, 3, 5), strict=True))


def test_the_package_tells_what_was_found_and_how(publish, tmp_path):
    files, fields = publish(*CAMTRAP), (DEPLOYMENT_FIELDS, MEDIA_FIELDS, OBSERVATION_FIELDS)
    assert [[re.match(r"\w+", y)[0] for y in x.split()] for x in TABLES.values()] == [list(x) for x in fields]
    places, media, found = (table(files[f"{x}.csv"]) for x in TABLES)
    assert lines(places, "locationName cameraID latitude deploymentEnd") == [
        'Old "Pond", north / S4A1 / 51.2 / 2025-06-03T00:00:00+02:00',
        "Hill /  / 51.25 / 2025-06-04T00:00:00+02:00",
    ]
    assert lines(media, "deploymentID timestamp filePath filePublic fileMediatype") == [
        "d1 / 2025-06-01T05:30:00+02:00 / A/dawn_20250601_053000.WAV / false / audio/wav",
        "d1 / 2025-06-01T23:59:55+02:00 / A/20250601_235955.wav / false / audio/wav",
        "d2 / 2025-06-02T05:30:00+02:00 / B/%2E%2Ex/20250602_053000.flac / false / audio/flac",
    ]
    what = "eventStart eventEnd observationType scientificName classificationProbability observationTags"
    rows, tags = lines(found, what), "startTime:{} | endTime:{} | frequencyLow:50 | frequencyHigh:12000"
    for expected, *span in (
        (
            "2025-06-01T05:30:00+02:00 / 2025-06-01T05:30:04+02:00 / animal / Leptotila verreauxi / 0.9",
            0.0,
            3.0,
        ),
        ("2025-06-01T05:30:02+02:00 / 2025-06-01T05:30:06+02:00 / human / Homo sapiens / 0.6", 2.5, 5.5),
        (
            "2025-06-02T00:00:01+02:00 / 2025-06-02T00:00:04+02:00 / animal / Lithobates palmipes / 0.8",
            6.0,
            9.0,
        ),
    ):
        assert f"{expected} / {tags.format(*span)}" in rows
    package = json.loads(files["datapackage.json"])
    # Else GBIF takes none of the observations.
    assert package["gbifIngestion"] == {"observationLevel": "media"}
    assert package["temporal"] == {"start": "2025-06-01", "end": "2025-06-03"}
    assert [x["scope"] for x in package["licenses"]] == ["data", "media"]
    assert {"scientificName": "Leptotila verreauxi"} in package["taxonomic"]
    how = r"Detected by keras-birds \S+ with the model demo-1 \(licence CC0\), scores from 0\.5, not checked by people"
    citation = rf"Jane Doe \(\d{{4}}\)\. Spree, 2025\. {how}\. \d{{4}}-\d\d-\d\d\.\n"
    assert re.fullmatch(citation, files["citation.txt"])
    for said in (
        "Published: 5 detections in 3 recordings, of 7 in the results",
        *("recordings without scores: 2", "recordings that are from no deployment: 1"),
        *("recordings of which nothing tells when they began: 1", "Labels that name no species: rain"),
    ):
        assert said in files["stderr"]


def test_results_tell_the_models_licence_and_band(run_command, write_tone, tmp_path):
    write_constant_model(tmp_path / "m.onnx", [0.0] * len(LABELS), make_metadata("m"))
    run_command("detect", write_tone("a.wav"), "--model", tmp_path / "m.onnx", "--out", tmp_path / "results")
    settings = json.loads((tmp_path / "results" / "journal.jsonl").read_text().splitlines()[0])["settings"]
    assert (settings["licence"], settings["band_hz"]) == ("Apache-2.0", [50, 8000])


def test_ids_stay_and_recordings_on_the_web_have_their_address(publish):
    first, fewer = publish(*CAMTRAP), publish("darwin-core", *ABOUT, "--min-score", "0.8", out="dwc")
    again = publish(*CAMTRAP, "--media-url", "https://a.org/b/", out="again")
    assert again["observations.csv"] == first["observations.csv"]
    known = {x["observationID"] for x in table(first["observations.csv"])}
    ids = {x["occurrenceID"] for x in table(fewer["occurrence.txt"], delimiter="\t")}
    assert (len(known), len(ids), ids < known) == (5, 2, True)
    addresses = lines(table(again["media.csv"]), "filePath filePublic")
    assert addresses[2] == "https://a.org/b/B/%2E%2Ex/20250602_053000.flac / true"


def test_a_copy_of_a_recording_is_told_and_has_an_id_of_its_own(tmp_path):
    copies = [(f"/{x}/A/20250601_235955.wav", UNTOLD, []) for x in ("rec", "again", "rec/more")]
    place = Deployment("A", 51.2, 13.1, deployment="d1")
    publication = Publication(write_results(tmp_path / "copies", copies), [place])
    ids = {x.id for x, _ in publication.recordings()}
    assert (len(ids), publication.twice) == (3, 2)


def test_a_darwin_core_archive_names_its_columns_and_what_gbif_needs(publish):
    files = publish("darwin-core", *ABOUT)
    space = {"": "http://rs.tdwg.org/dwc/text/"}
    core = ElementTree.fromstring(files["meta.xml"]).find("core", space)
    form = "encoding fieldsTerminatedBy linesTerminatedBy ignoreHeaderLines"
    assert lines([core.attrib], form) == [r"UTF-8 / \t / \n / 1"]
    fields = core.findall("field", space)
    header, *rest = files["occurrence.txt"].splitlines()
    assert [x.get("term").rsplit("/")[-1] for x in fields] == header.split("\t")
    assert [int(x.get("index")) for x in fields] == list(range(len(fields)))
    assert {x.count("\t") for x in rest} == {len(fields) - 1}
    rows = table(files["occurrence.txt"], delimiter="\t", quoting=csv.QUOTE_NONE)
    assert len({x["occurrenceID"] for x in rows}) == len(rows) == 4  # no voices
    assert lines(rows[:1], "basisOfRecord scientificName occurrenceStatus eventDate locality") == [
        "MachineObservation / Leptotila verreauxi / present / 2025-06-01T03:30:00+00:00/2025-06-01T03:30:04+00:00 / "
        'Old "Pond", north'
    ]
    # Without a timezone the other clock's offset isn't known, nor made up.
    assert {x["eventDate"][:20] for x in rows[1:]} == {"2025-06-01T23:59:55/", "2025-06-02T00:00:01/"}
    eml = ElementTree.fromstring(files["eml.xml"]).find("dataset")
    order = "title creator metadataProvider pubDate language abstract intellectualRights coverage contact"
    assert [x.tag for x in eml] == order.split()
    assert eml.find("intellectualRights/para/ulink").get("url").endswith("/licenses/by/4.0/legalcode")
    assert eml.find("contact/individualName/surName").text == "Doe"


def test_ebird_checklists_are_of_a_site_and_a_day(publish, monkeypatch):
    monkeypatch.setattr(ebird, "FILE_BYTES", 300)
    files = publish("ebird", "--protocol", "stationary", "--timezone", "Europe/Berlin")
    # A night's recording is on two days; frogs and people are no birds, and the Hill had none.
    first, second = (files.pop(f"ebird-00{x}.csv") for x in (1, 2))
    assert sorted(files) == ["citation.txt", "stderr"]
    assert "detections of what is no bird: 2" in files["stderr"]
    assert [x.count(y) for x in (first, second) for y in '\n,"'] == [1, 18, 0] * 2
    assert first.startswith(
        "White-tipped Dove,Leptotila,verreauxi,X,2 detections; best score 0.90,Old 'Pond'; north,51.200000,13.100000,"
        "06/01/2025,05:30,,,Stationary,1,1,N,,,Unattended recorder; "
    )
    assert second.startswith("Common Pauraque,Nyctidromus,albicollis,X,1 detection; best score 0.75,")
    assert ",06/02/2025,00:00,,,Stationary,1,1,N,,," in second


def test_a_checklist_lasts_no_longer_than_its_recordings_of_several_recorders(tmp_path):
    place = Deployment("A", 51.2, 13.1, site="Pond")

    def recorded(hour, minutes):
        began = datetime(2025, 6, 1, hour)
        return Recorded("1", RecordingStatus("a", "ok", seconds=60 * minutes), UNKNOWN, place, began)

    dove = Sound("animal", "1", "Leptotila verreauxi", "Dove", 0, 0.0, 3.0, 0.9, "m")
    recordings = [(recorded(6, 60), [dove]), (recorded(5, 90), []), (recorded(6, 60), [])]
    publication = SimpleNamespace(recordings=lambda: recordings)
    (path,) = write_ebird(publication, Method("m", "", 0.5), "stationary", tmp_path)
    assert ",06/01/2025,05:00,,,Stationary,1,120,N,,,Unattended recorder; 2 h" in path.read_text()


def test_what_cannot_be_published_is_refused_in_a_line(publish, tmp_path):
    err = publish("camtrap-dp", *ABOUT, "--design", "targeted", code=1)["stderr"]
    assert "Received: no timezone of the deployments d1, d2. Give --timezone" in err
    assert "needs --title, --contact, --licence, --design" in publish("camtrap-dp", code=2)["stderr"]
    assert "no detection of any" in publish("ebird", "--min-score", "0.95", code=1)["stderr"]
    wrong = "darwin-core", *ABOUT[:3], "Jane Doe", *ABOUT[4:]
    assert "--contact must be a name and an address" in publish(*wrong, code=2)["stderr"]
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".media.csv.4711.tmp").write_text("of a run that was killed")
    assert publish("ebird")["ebird-001.csv"]
    (tmp_path / "out" / "mine").write_text("kept")
    assert "--out must be a new or an empty folder" in publish("ebird", code=2)["stderr"]
