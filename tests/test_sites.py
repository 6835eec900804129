"""Tables of sites and deployments: which recordings are from where."""

import json
from datetime import datetime, timedelta

import pytest

from keras_birds.errors import ConfigError, DataError
from keras_birds.results.sites import Sites, overlaps, read_deployments, read_sites, rows_of, zone_of

HEAD = "deployment,site,latitude,longitude,start,end,recorder,pattern,timezone\n"


def test_sites_are_found_by_folders_and_names_and_the_first_counts(tmp_path):
    path, head = tmp_path / "sites.csv", "pattern,latitude,longitude,timezone\n"
    path.write_text(
        head + "plots/3,1,0,\nA?_*.wav,2,0,+02:00\n/disk/plots,3,0,\ns3://b/p*,4,0,\nx/*/c*,5,0,\n"
    )
    sites = Sites(read_sites(path))
    for file, latitude in {
        "x/plots/3/A1_9.wav": 1,
        "plots/31/A1_9.wav": 2,
        "plots/31/A1_9.wav.ogg": None,
        "/disk/plots/31/b.wav": 3,
        "/mnt/disk/plots/31/b.wav": None,
        "s3://b/p7/a.wav?versionId=1": 4,
        "x/y/c1.wav": 5,
        "x/c1.wav": None,
    }.items():
        found, note = sites.find(file)
        assert (found and found.latitude, note) == (
            latitude,
            "" if latitude else "No site has such a path.",
        ), file
        assert [x.latitude for x in sites.rows if x.has(file)][:1] == ([latitude] if latitude else []), file
    for rows, said in {
        "x,91,0,\n": "row 2: A latitude must be from -90 to 90 degrees. Received: 91",
        "y,1,0,\nx,north,0,\nx,0,0,\n": "row 3: .*degrees. Received: north, 0; row 4: .*Received: 0, 0",
        ",1,0,\n": "row 2: a site must have a pattern",
        "x,1,0,Mars\n": "row 2: A timezone must be one such as .* Received: Mars",
        "": "at least one row",
    }.items():
        path.write_text(head + rows)
        with pytest.raises(DataError, match=f"{path}: .*{said}"):
            read_sites(path)


@pytest.mark.parametrize("recorder", ["", "Open Acoustic Devices AudioMoth 24F3-9A"])
def test_a_deployment_is_found_by_path_time_and_recorder(tmp_path, recorder):
    path = tmp_path / "deployments.csv"
    path.write_text(
        HEAD
        + "D1,S1,1,0,2023-05-01,2023-05-10,24f3,,\n"  # to the end of the day
        + "D2,S2,2,0,2023-05-01 12:00,2023-05-10T12:00,,s2,\n"
        + "D3,S3,3,0,2023-05-10T10:00+00:00,2023-06-01,,s2,+02:00\n"
        + "D4,S4,4,0,2023-05-10T11:00,2023-06-01,77,s2,\n"
    )
    table = read_deployments(path)
    assert [x.start for x in table[2:]] == [datetime(2023, 5, 10, 12), datetime(2023, 5, 10, 11)]
    sites = Sites(table)

    def found(file, *time):
        deployment, note = sites.find(file, datetime(2023, *time) if time else None, recorder)
        return getattr(deployment, "deployment", None), note

    nobody = "No pattern fits it, and it tells no recorder."
    assert found("x/a.wav", 5, 10, 23) == (("D1", "") if recorder else (None, nobody))
    outside = "Its time is outside the deployment's, D1: 2023-05-01 00:00 to 2023-05-11 00:00."
    assert found("x/a.wav", 5, 11) == ((None, outside) if recorder else (None, nobody))
    # The path tells more than a recorder's name, but not of two that fit it.
    assert found("s2/a.wav", 5, 1, 11)[0] == ("D1" if recorder else None)
    assert found("s2/a.wav", 6, 3)[1].startswith("Its time is outside the deployment's, D3")
    if not recorder:
        assert found("s2/a.wav", 5, 1, 12) == ("D2", "")
        assert found("s2/a.wav", 5, 10, 12) == ("D3", "")
        assert found("s2/a.wav") == (None, "It tells no time and fits several deployments: D2, D3.")
    alone = Sites(table[3:])
    note = f"Its recorder is {recorder!r}, the deployment's '77'." if recorder else ""
    assert alone.find("s2/a.wav", datetime(2023, 5, 12), recorder) == (table[3], note)
    same = "the deployments {} have the same pattern s2 from 2023-05-10 1{}"
    first, second = ("D2 and D4", "1:00 to 2023-05-10 12:00"), ("D4 and D3", "2:00 to 2023-06-02 00:00")
    assert overlaps(table) == [same.format(*first), same.format(*second)]
    assert rows_of(json.loads(json.dumps(sites.settings))) == table


def test_a_row_that_can_not_be_a_deployment_is_told(tmp_path):
    path, ever = tmp_path / "deployments.csv", "2023-05-01,2023-05-02"
    for row, said in {
        f"D,S,0,0,{ever},r,,": "Received: 0, 0, in the Atlantic",
        "D,S,1,0,1970-01-01,2023-05-02,r,,": "start must be in 2000 or later. Received: 1970-01-01",
        "D,S,1,0,01/05/2023,2023-05-02,r,,": "start must be a time such as .* Received: 01/05/2023",
        "D,S,1,0,2023-05-02 08:00,2023-05-01,r,,": "must end after its start. Received: 2023-05-02 08:00",
        f"D,S,1,0,{ever},,*,": "must have a pattern or a recorder",
        f"A,S,1,0,{ever},,x,": "must have a name of its own. Received: A",
    }.items():
        path.write_text(f"{HEAD}A,S,1,0,{ever},,x,\n{row}\n")
        with pytest.raises(DataError, match=f"{path}: row 3: .*{said}"):
            read_deployments(path)


def test_timezones_are_names_or_offsets():
    summer = datetime(2023, 7, 1)
    for name, hours in {"UTC": 0, "z": 0, "+05:30": 5.5, "UTC-3": -3, "Europe/Berlin": 2}.items():
        assert zone_of(name).utcoffset(summer) == timedelta(hours=hours)
    for name in ("Europe", "../x", "+15", "", "CET+CEST"):
        with pytest.raises(ConfigError, match="A timezone must be"):
            zone_of(name)
