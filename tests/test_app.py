"""The app without a browser: its parts, and the page as Streamlit runs it."""

import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from placeholder import make_metadata, write_constant_model
from sounds import encoded, tone
from streamlit.testing.v1 import AppTest
from test_recorder import chunk, wav

import keras_birds
from keras_birds.app import charts
from keras_birds.app.analysis import analyse, detections_table, top_table, warm_up
from keras_birds.app.session import SessionFolder, display_name, plain, recordings_in
from keras_birds.birdnet.range_model import RangeModel
from keras_birds.data.reviews import Review, read_reviews, reviews_path, save_review
from keras_birds.errors import AudioError, KerasBirdsError
from keras_birds.inference.aggregate import aggregate
from keras_birds.labels import LabelSet

PAGE = Path(keras_birds.__file__).parent / "app" / "page.py"


@pytest.fixture(scope="module")
def classifier():
    return keras_birds.load("animals")


@pytest.fixture(scope="module")
def folder():
    with closing(SessionFolder()) as found:
        yield found


@pytest.fixture(scope="module")
def analysis(classifier, folder):
    return analyse(classifier, folder.example(), "example", 0.0, 600, lambda *_: None)


def test_an_analysis_has_the_numbers_of_the_classifier(classifier, folder, analysis):
    expected = classifier.scores(folder.example())[list(classifier.labels)].to_numpy()
    np.testing.assert_array_equal(analysis.found.scores, expected)
    assert analysis.envelope.seconds == 30
    top = top_table(classifier, expected, 5, "mean", 0.25)
    assert list(top["label"][:2]) == ["chirping_birds", "cat"]
    assert list(top["votes"]) == [4, 2, 0, 0, 0]
    top = top_table(classifier, expected, 3, "max", 0.97)
    np.testing.assert_array_equal(top["probability"], np.sort(aggregate(expected, "max"))[::-1][:3])
    assert dict(zip(top["label"], top["votes"], strict=True)) == {"cat": 2, "chirping_birds": 0, "rooster": 0}
    found = detections_table(classifier, analysis, 0.9, {"cat", "hen"}, merge=True)
    assert found[["file", "start_s", "end_s", "label"]].to_numpy().tolist() == [["example", 10, 20, "cat"]]


def test_warming_up_leaves_nothing_and_does_not_mind_a_broken_model(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    warm_up("animals")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    warm_up(str(tmp_path / "broken.onnx"))
    assert [x.name for x in tmp_path.iterdir()] == ["broken.onnx"]


def test_progress_is_told_and_what_it_raises_stops_the_work(classifier, write_tone, monkeypatch):
    path, told = write_tone("long.flac", seconds=120), []
    analyse(classifier, path, "long", 0.0, 600, lambda *x: told.append(x))
    shares = [share for what, share in told if what == "Listening"]
    assert 0 <= min(shares) <= max(shares) <= 1

    def stop(what, share):
        raise KeyboardInterrupt

    scored, compute = [], classifier.probabilities
    monkeypatch.setattr(classifier, "probabilities", lambda x: scored.append(len(x)) or compute(x))
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        analyse(classifier, path, "long", 4.5, 600, stop)
    assert threading.active_count() == before
    assert sum(scored) < 120  # of 232 windows


def test_errors_have_the_name_that_people_know(classifier, tmp_path, write_tone):
    (tmp_path / "x").write_bytes(b"RIFF nothing")
    for path, max_s, said in (
        (tmp_path / "x", 600, r"^my clip\.ogg: is not audio"),
        (write_tone("tone.wav", seconds=5), 3, r"^my clip\.ogg: is longer than 0\.05 min"),
    ):
        with pytest.raises(AudioError, match=said):
            analyse(classifier, path, "my clip.ogg", 0.0, max_s, lambda *_: None)


def test_uploads_lie_under_names_of_our_own_and_go(monkeypatch):
    folder, sound = SessionFolder(), memoryview(b"some sound")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=20))
    paths = [folder.save_upload(x, sound) for x in ("../one", "../one", "two")]
    assert [x.parent for x in paths] == [folder.path] * 3
    assert [x.read_bytes() for x in set(paths)] == [b"some sound"] * 2
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=19))
    with pytest.raises(KerasBirdsError, match="Free some space"):
        folder.save_upload("three", sound)
    folder.close()
    assert not folder.path.exists()


def test_a_name_is_text_only_and_no_markdown():
    names = {
        "../../etc/passwd": "passwd",
        "C:\\sounds\\a.wav": "a.wav",
        "a\nb\x00.wav": "a b .wav",
        "": "upload",
        "鳥" * 116 + ".ogg": "鳥" * 116 + ".ogg",
        "a" * 117 + ".ogg": "a" * 111 + "…aaaa.ogg",
    }
    assert {x: display_name(x) for x in names} == names
    assert plain("![x](http://y) *a* $b$ <i>") == r"\!\[x\]\(http\://y\) \*a\* \$b\$ \<i\>"


def test_a_folder_shows_its_own_recordings_only(tmp_path, write_tone):
    inside, outside = write_tone("in/b/a.wav", seconds=1), write_tone("out/secret.wav", seconds=1)
    for name in ("notes.txt", "._a.wav", "b.zzz"):
        (tmp_path / "in" / name).touch()
    (tmp_path / "in" / "link.wav").symlink_to(outside)
    found, (note,) = recordings_in(tmp_path / "in")
    assert (found, "holds 1 file of unknown kind, left out: " in note) == ([inside], True)


def test_a_long_timeline_keeps_its_peaks():
    values = np.zeros(10_000)
    values[[17, 7001, 9999]] = 0.7, 0.9, 0.8
    found = charts.decimated(np.arange(10_000) * 0.5, values)
    assert len(found) <= 1500
    assert found[found["probability"] > 0].to_numpy().tolist() == [[8.5, 0.7], [3500.5, 0.9], [4999.5, 0.8]]


def test_a_part_is_drawn_with_its_detections(classifier, analysis):
    found = detections_table(classifier, analysis, 0.25, set(classifier.labels), merge=False)
    samples = np.random.default_rng(0).normal(0, 0.1, 64_000).astype(np.float32)
    parts = (
        (samples, found[:0], None),
        (samples, found, None),
        (samples, found, (10, "cat")),
        (0 * samples, found, None),
    )
    pictures = {charts.part_picture(x, 9.0, classifier, *more) for x, *more in parts}
    assert len([x for x in pictures if x.startswith(b"\x89PNG")]) == 4


@pytest.fixture
def open_page(monkeypatch, tmp_path):
    """Runs the page in an empty folder, where the bundled model is the only one."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, **parameters):
        monkeypatch.setattr("sys.argv", ["page.py", *map(str, arguments)])
        page = AppTest.from_file(str(PAGE), default_timeout=120)
        page.query_params.update(parameters)
        assert not page.run().exception
        return page

    return run


def test_the_page_shows_what_predict_says_as_the_address_wants_it(open_page, analysis, classifier):
    page = open_page()
    answer = page.dataframe[0].value
    expected = top_table(classifier, analysis.found.scores, 5, "mean", 0.25)
    assert list(answer["label"]) == list(expected["label"])
    np.testing.assert_allclose(answer["probability"], expected["probability"])
    assert len(page.dataframe[1].value) == 6
    page = open_page(threshold="0.97", top="2", by="best window", species="Domestic cat")
    answer, detections = page.dataframe[0].value, page.dataframe[1].value
    assert (len(answer), answer["probability"][0] > 0.99) == (2, True)
    assert set(detections["label"]) == {"cat"}
    assert (detections["score"] >= 0.97).all()


def test_a_bad_file_is_named_and_marks_of_others_lie_beside_them(open_page, folder, tmp_path):
    recording = tmp_path / "sounds" / "cat (1).flac"
    recording.parent.mkdir()
    recording.write_bytes(folder.example().read_bytes())
    recording.with_name("bad.ogg").write_bytes(b"OggS broken")
    page, marks = open_page("--folder", recording.parent, file="bad.ogg"), reviews_path(recording)
    assert [r"bad\.ogg" in x.value for x in page.error] == [True]
    page.selectbox(key="file").set_value(recording.name).run()
    assert not page.error
    assert len(page.dataframe[0].value) == 5

    def click(key):
        page.button(key=key).click().run()
        return read_reviews(marks)

    page.session_state["focus"] = (10.0, "cat")
    page.run()
    (said,) = click("right")
    expected = Review("cat (1).flac", 10, 15, "cat", said.score, "animals", "right", "", said.reviewed_at)
    assert said == expected
    assert said.score == pytest.approx(0.9918, abs=1e-3)
    assert "✓ right" in list(page.dataframe[1].value["review"])
    assert click("other") == [said]
    assert page.error[0].value == r"Choose the species first\."
    page.selectbox(key="true_label").set_value("hen").run()
    (other,) = click("other")
    assert other == replace(said, verdict="other", true_label="hen", reviewed_at=other.reviewed_at)
    save_review(marks, replace(other, true_label="![x](http://y)"))
    page.run()
    assert r"\!\[x\]\(http\://y\)" in "".join(x.value for x in page.markdown)
    click("next")
    assert page.session_state["focus"] == (15.0, "cat")
    page.text_input(key="reviewer").set_value(" Ada ").run()
    page.session_state["focus"] = (10.0, "cat")
    page.run()
    assert page.button(key="undo").disabled  # what others said isn't hers
    hers, _ = sorted(click("right"), key=lambda x: x.verdict, reverse=True)
    assert (hers.reviewer, hers.verdict) == ("Ada", "right")
    assert "≠ → ![x](http://y), ✓ right (Ada)" in list(page.dataframe[1].value["review"])
    assert {x.verdict for x in click("unsure")} == {"other", "unsure"}
    assert [x.reviewer for x in click("undo")] == [""]
    page.text_input(key="reviewer").set_value("").run()
    assert click("undo") == []
    assert not marks.exists()
    assert not page.exception


def test_voices_and_what_does_not_occur_are_left_out_of_the_page(open_page, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BIRDS_MODELS", str(tmp_path / "models"))
    labels, model = (
        LabelSet(["Human vocal", "Turdus merula", "Pica pica"]),
        tmp_path / "models/made/model.onnx",
    )
    write_constant_model(model, [0.0, 1.0, 2.0], make_metadata(labels=labels))
    weights = np.zeros((3 * 48, 2)), np.float32([9, -4])  # the magpie is less than 0.03 probable everywhere
    RangeModel([weights], np.zeros(48), LabelSet(labels.names[1:])).save(model.parent)
    for parameters, found in (({}, 3), ({"lat": "1", "lon": "2"}, 2), ({"voices": "0.6"}, 3)):
        answer, detections = (x.value for x in open_page("--model", "made", **parameters).dataframe)
        assert (answer["label"][0] == "Turdus merula", detections["label"].nunique()) == (found == 2, found)
    guano = b"GUANO|Version: 1.0\nTimestamp: 2025-07-01 12:00:00+01:00\nLoc Position: 54.7 -1.6"
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.wav").write_bytes(wav(encoded(tone(5))[12:], chunk(b"guan", guano)))
    page = open_page("--model", "made", "--folder", tmp_path / "disk")
    said = [x.value for x in page.caption if "Recorded" in x.value]
    assert [x.replace("\\", "") for x in said] == ["Recorded 2025-07-01 12:00:00 (UTC+01:00), at 54.7, -1.6."]
    assert page.dataframe[1].value["label"].nunique() == 2
    page = open_page("--model", "made", voices="0.5")
    assert ([x.value for x in page.info], len(page.dataframe)) == (["No window is left."], 0)
