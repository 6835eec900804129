"""The app in a real browser."""

import numpy as np
import pandas as pd
import pytest
import soundfile
from app_browser import CHROMIUM, DRIVER, Visitor, serve, until

from keras_birds.app.example import write_example

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]


def test_detections_of_a_folder_are_heard_marked_and_kept_also_of_an_hour(tmp_path):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    write_example(sounds / "a cat.flac")
    sound, rate_hz = soundfile.read(sounds / "a cat.flac", dtype="float32")
    silence = np.random.default_rng(0).normal(0, 0.003, len(sound)).astype("float32")
    with soundfile.SoundFile(sounds / "hour.flac", "w", rate_hz, 1) as file:
        for k in range(120):
            file.write(sound if k == 100 else silence)
    marks = sounds / "a cat.flac.reviews.csv"
    with serve(tmp_path, "--folder", str(sounds)) as address, Visitor(address, tmp_path) as visitor:
        visitor.open("?file=a+cat.flac")
        visitor.wait_done()
        assert visitor.run("return document.querySelector('audio').paused")
        assert 10 <= visitor.click_detection(2) < 14
        visitor.click_button("Right")
        until(marks.exists)
        marked = pd.read_csv(marks)[["file", "start_s", "label", "verdict"]]
        assert marked.to_numpy().tolist() == [["a cat.flac", 10, "cat", "right"]]
        until(lambda: "✓ right" in visitor.text())
        visitor.click_button("Take back")
        until(lambda: not marks.exists())
        # The hour's only animals are in its 51st minute, and that is where a click leads.
        visitor.open("?file=hour.flac&by=best+window")
        until(lambda: "Listening" in visitor.text())
        visitor.wait_done()
        assert "3600.0 s, 720 windows" in visitor.text()
        assert 10 <= visitor.click_detection(0) < 14  # the part begins 10 s before the detection


def test_what_a_visitor_uploads_no_other_sees_and_nothing_stays(tmp_path):
    clip = tmp_path / "mine only.flac"
    write_example(clip)
    with (
        serve(tmp_path) as address,
        Visitor(address, tmp_path) as one,
        Visitor(address, tmp_path) as two,
    ):
        for visitor in (one, two):
            visitor.open("?from=Upload")
        one.upload(clip)
        one.wait_done()
        one.click_button("Detections as CSV")
        (table,) = until(lambda: list(tmp_path.glob("*.detections.csv")))
        assert set(pd.read_csv(table)["file"]) == {clip.name}
        two.open("?from=Example")
        two.wait_done()
        two.open("?from=Upload")
        until(lambda: "It stays in this session" in two.text())
        assert ["mine only" in x.text() for x in (one, two)] == [True, False]
        assert len(list((tmp_path / "tmp").glob("keras-birds-app-*"))) >= 2
    until(lambda: not list((tmp_path / "tmp").glob("keras-birds-app-*")), 20)
