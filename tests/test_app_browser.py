"""The app in a real browser, on real recordings."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from app_browser import CHROMIUM, DRIVER, Visitor, serve, until

from keras_birds.app.example import write_example

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A server with a folder of recordings: an example, a broken one and one of an hour."""
    folder = tmp_path_factory.mktemp("site")
    sounds = folder / "sounds"
    sounds.mkdir()
    write_example(sounds / "a cat.flac")
    (sounds / "broken.ogg").write_bytes(b"OggS and nothing more")
    sound, rate_hz = soundfile.read(sounds / "a cat.flac", dtype="float32")
    silence = np.random.default_rng(0).normal(0, 0.003, len(sound)).astype("float32")
    with soundfile.SoundFile(sounds / "hour.flac", "w", rate_hz, 1) as file:
        for k in range(120):
            file.write(sound if k == 100 else silence)
    with serve(folder, "--folder", str(sounds), "--max-upload-mb", "5") as (address, _):
        yield folder, address


@pytest.fixture
def visitor(site, tmp_path):
    with Visitor(site[1], tmp_path) as found:
        yield found


def test_an_uploaded_clip_has_the_labels_that_the_command_prints(site, visitor, animals_dir, tmp_path):
    clips = sorted((animals_dir / "train_audio").glob("*/*.ogg"))
    clip = next(x for x in clips if x.parent.name == "rooster")
    visitor.open("?from=Upload")
    visitor.upload(clip)
    visitor.wait_done()
    visitor.click_button("Detections as CSV")
    (table,) = until(lambda: list(tmp_path.glob("*.detections.csv")))
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    command = [sys.executable, "-m", "keras_birds", "predict", str(clip), "--format", "json"]
    done = subprocess.run(command, cwd=site[0], capture_output=True, text=True, check=True)
    expected = json.loads(done.stdout)[0]["top"]
    assert rows[0]["label"] == expected[0]["label"] == "rooster"
    assert float(rows[0]["score"]) == pytest.approx(expected[0]["score"], abs=1e-5)
    assert rows[0]["file"] == clip.name
    assert clip.name in visitor.text()


def test_a_detection_is_heard_marked_and_kept(site, visitor):
    marks = site[0] / "sounds" / "a cat.flac.reviews.csv"
    visitor.open("?file=a+cat.flac")
    visitor.wait_done()
    assert visitor.sound() == {"at": 0, "paused": True}
    visitor.click_detection(2)
    until(lambda: not visitor.sound()["paused"])
    assert 10 <= visitor.sound()["at"] < 14
    visitor.click_button("Right")
    until(marks.exists)
    with marks.open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    marked = [row[x] for x in ("file", "start_s", "label", "verdict")]
    assert marked == ["a cat.flac", "10.000", "cat", "right"]
    until(lambda: "✓ right" in visitor.text())
    visitor.click_button("Take back")
    until(lambda: not marks.exists())


def test_an_hour_is_usable(visitor):
    """Its only animals are in the 51st minute, and that is where a click leads."""
    visitor.open("?file=hour.flac&by=best+window")
    until(lambda: "Listening" in visitor.text())
    visitor.wait_done()
    assert "3600.0 s, 720 windows" in visitor.text()
    visitor.click_detection(0)
    until(lambda: not visitor.sound()["paused"])
    assert 10 <= visitor.sound()["at"] < 14  # the part begins 10 s before the detection


def test_visitors_do_not_see_each_others_files_and_nothing_stays(tmp_path):
    clip = tmp_path / "mine only.flac"
    write_example(clip)
    with (
        serve(tmp_path) as (address, _),
        Visitor(address, tmp_path) as one,
        Visitor(address, tmp_path) as two,
    ):
        for visitor in (one, two):
            visitor.open("?from=Upload")
        one.upload(clip)
        one.wait_done()
        two.open("?from=Example")
        two.wait_done()
        two.open("?from=Upload")
        until(lambda: "It stays in this session" in two.text())
        assert "mine only" not in two.text()
        assert "mine only" in one.text()
        assert len(list((tmp_path / "tmp").glob("keras-birds-app-*"))) >= 2
    until(lambda: not list((tmp_path / "tmp").glob("keras-birds-app-*")), 20)
