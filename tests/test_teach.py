"""Find and teach: quick heads, what they choose, marks of a store, and the app's page without and with a browser."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from app_browser import CHROMIUM, DRIVER, Visitor, serve, until
from sklearn.linear_model import LogisticRegression
from streamlit.testing.v1 import AppTest
from test_search import make_store

import keras_birds
from keras_birds.app.example import write_example
from keras_birds.app.find import DEFAULT_WAY
from keras_birds.app.hit_grid import cards_of
from keras_birds.app.marks import MARKS, Mark, read_marks, save_mark
from keras_birds.data.reviews import find_reviews
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.embeddings.teach import WAYS, quick_head, suggest
from keras_birds.embeddings.writer import StoreWriter, store_settings
from keras_birds.errors import ConfigError, DataError
from keras_birds.inference.embedder import Embedder
from keras_birds.inference.scorer import DEFAULT_OPTIONS, score_recordings

PAGE = Path(keras_birds.__file__).parent / "app" / "page.py"


@pytest.fixture(scope="module")
def vectors():
    """Of 40 recordings, 30 windows each; the call, in every tenth window, lifts four numbers; two are one sound."""
    found = np.random.default_rng(0).gamma(0.5, 1.0, (40, 30, 32))
    found[:, ::10, :4] += 2
    found[1] = found[0]
    return found.astype(np.float16).astype(np.float32)


@pytest.fixture(scope="module")
def store(vectors, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("teach") / "s.emb", vectors, hop_s=1.5)


def test_a_quick_head_is_a_balanced_regression_on_standardised_numbers(store, vectors):
    flat = vectors.reshape(-1, 32)
    rows = np.array([0, 10, 60, 90, 1, 32, 63, 94, 125, 156, 187])
    targets = (rows % 10 == 0).astype(int)
    mean, deviation = flat.mean(axis=0), flat.std(axis=0)
    model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=200)
    model.fit((flat[rows] - mean) / deviation, targets)
    scores = quick_head(store, rows, targets)
    expected = model.predict_proba((flat - mean) / deviation)[:, 1]
    np.testing.assert_allclose(scores, expected, atol=1e-3)
    with pytest.raises(DataError, match=r"2 without\. Received: 4 and 1\. Mark more"):
        quick_head(store, rows[:5], targets[:5])


def test_each_way_chooses_what_it_says_and_nothing_twice(store):
    scores, marked = np.linspace(0, 1, len(store), dtype=np.float32), np.arange(1190, 1200)
    chosen = {how: suggest(store, scores, marked, how, 12, seed=3) for how in WAYS}
    for rows in chosen.values():
        assert len(set(rows)) == 12
        assert not set(rows) & set(marked)
        windows = store.windows(rows).sort_values(["file", "start_s"])
        assert (
            windows.groupby("file")["start_s"].diff().dropna() >= 3
        ).all()  # every 1.5 s there is a window of 3 s
    assert chosen["certain"].tolist() == list(range(1189, 1165, -2))
    assert np.abs(scores[chosen["boundary"]] - 0.5).max() < 0.02
    ranks = 1190 - np.sort(chosen["spread"])[::-1]
    assert (ranks[0] <= 2, (ranks < 100).sum() >= 6, ranks[-1] > 500) == (True, True, True)
    assert np.ptp(chosen["random"]) > 600
    again, other = (suggest(store, scores, marked, "random", 12, seed=x) for x in (3, 4))
    assert (again.tolist() == chosen["random"].tolist(), other.tolist() == again.tolist()) == (True, False)
    copies = suggest(store, np.where(np.arange(len(store)) < 60, 1, scores), marked, "certain", 40)
    assert not {0, 30} <= set(copies)
    assert suggest(store, scores, np.arange(len(store)), "certain").tolist() == []
    with pytest.raises(ConfigError, match="certain, boundary, spread, random"):
        suggest(store, scores, marked, "best")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A store of three recordings of birds and a cat, of which one is gone."""
    folder = tmp_path_factory.mktemp("sounds")
    write_example(folder / "a.flac")
    sound, rate_hz = soundfile.read(folder / "a.flac")
    for name, moved_s in (("b", 1), ("gone", 2)):
        soundfile.write(folder / f"{name}.flac", np.roll(sound, moved_s * rate_hz), rate_hz)
    model = keras_birds.load("animals")
    with StoreWriter(folder / "s.emb", store_settings(model, DEFAULT_OPTIONS)) as writer:
        for found in score_recordings(Embedder(model), [str(x) for x in sorted(folder.glob("*.flac"))]):
            writer.add(found)
        writer.finish()
    (folder / "gone.flac").unlink()
    return folder


def test_marks_of_two_people_are_kept_apart_and_of_windows_out_of_reach_as_well(sounds, tmp_path):
    store, path = EmbeddingStore(sounds / "s.emb"), tmp_path / "new" / MARKS
    said = (
        (2, "right", "Ada"),
        (2, "wrong", "Bob"),
        (14, "right", "Bob"),
        (3, "unsure", "Bob"),
        (4, "wrong", ""),
    )
    for row, verdict, reviewer in said:
        save_mark(path, store, Mark(row, "cat", verdict, reviewer, 0.25))
    marks = read_marks(path, store, "cat")
    assert [x.tolist() for x in marks.settled] == [[4, 14], [0, 1]]
    assert (marks.disputed, marks.of_others(2, "Ada")) == ([2], "≠ Bob ✗ no")
    assert (marks.of_others(4, "Ada"), set(marks.of("Bob"))) == ("somebody ✗ no", {2, 3, 14})
    save_mark(path, store, Mark(2, "cat", None, "Ada", 0.25))
    save_mark(path, store, Mark(3, "cat", "wrong", "Bob", 0.25))
    save_mark(path, store, Mark(14, "cat", None, "Bob", 0.25))
    table = pd.read_csv(path, keep_default_na=False)[["file", "start_s", "end_s", "verdict", "reviewer"]]
    place = str(sounds / "a.flac")
    expected = [
        (place, 20, 25, "wrong", ""),
        (place, 10, 15, "wrong", "Bob"),
        (place, 15, 20, "wrong", "Bob"),
    ]
    assert sorted(map(tuple, table.to_numpy())) == sorted(expected)
    assert {x.file for x in find_reviews(path.parent)} == {place}  # as training finds them
    near, far = cards_of(store.windows(np.array([2, 14])), store.audio)
    assert (near.problem, near.picture[:15], far.picture) == ("", "data:image/png;", "")
    assert (far.name, far.problem[:12]) == ("gone.flac 0:10.0", "out of reach")
    assert read_marks(path, store, "dog").labels == ("cat",)


def test_the_page_searches_tells_what_lacks_and_teaches(sounds, tmp_path, monkeypatch):
    store, path = EmbeddingStore(sounds / "s.emb"), tmp_path / MARKS
    for row in (2, 3, 14):
        save_mark(path, store, Mark(row, "cat", "right" if row == 2 else "wrong", "Ada", 0.5))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sys.argv", ["page.py", "--embeddings", str(store.folder), "--reviews", str(tmp_path)]
    )
    page = AppTest.from_file(str(PAGE), default_timeout=120)
    page.query_params.update(label="cat", reviewer="Bob")
    page.run().button(key="search").click().run()
    assert not page.exception
    assert "A head can be taught after 1 more yes." in [x.value for x in page.caption]
    hits = page.session_state["grid_data"]["hits"]
    assert {x["row"]: (x["mine"], x["others"]) for x in hits}[2] == ("", "Ada ✓ yes")
    save_mark(path, store, Mark(8, "cat", "right", "Ada", 0.5))
    save_mark(path, store, Mark(3, "cat", "right", "Bob", 0.5))
    save_mark(path, store, Mark(9, "cat", "wrong", "Bob", 0.5))
    page.run()
    assert page.selectbox(key="how").value == DEFAULT_WAY
    page.button(key="onward").click().run()
    assert not page.exception
    assert not page.error
    told = "".join(x.value for x in (*page.caption, *page.markdown, *page.code))
    assert "Taught with 4 windows; all 18 scored" in told
    assert "2 yes and 2 no on which all agree; 2 marks are yours" in told
    assert f"--embeddings {store.folder} --reviews {tmp_path} --config head" in told
    assert page.dataframe[0].value["said"].tolist() == ["Ada ✗ no, Bob ✓ yes"]


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
def test_keys_mark_undo_and_teach_and_no_mark_of_a_quick_hand_is_lost(sounds, tmp_path):
    marks, store = tmp_path / MARKS, EmbeddingStore(sounds / "s.emb")
    arguments = "--embeddings", str(store.folder), "--reviews", str(tmp_path)
    with serve(tmp_path, *arguments) as address, Visitor(address, tmp_path) as visitor:
        visitor.open("?label=cat&reviewer=Ada")
        until(lambda: "drag over the call" in visitor.text())
        visitor.click_button("Search")
        until(lambda: len(visitor.all(".kb-hit img")) + len(visitor.all(".kb-gone")) == 12)
        visitor.press(*"ynyunzz")  # of three the last two are taken back
        visitor.press("n", " ", "y", "n")
        shown = visitor.run("return [...document.querySelectorAll('.kb-said')].map(x => x.innerText)")
        assert shown[:8] == ["✓ yes", "✗ no", "✓ yes", "✗ no", "", "✓ yes", "✗ no", ""]
        until(lambda: marks.is_file() and len(pd.read_csv(marks)) == 6)
        until(lambda: pd.read_csv(marks)["verdict"].tolist().count("wrong") == 3)
        until(lambda: "Teach, and show" in visitor.text())
        visitor.press("t")
        until(lambda: "Taught with" in visitor.text())
        assert set(pd.read_csv(marks)["reviewer"]) == {"Ada"}
