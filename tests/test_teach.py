"""Find and teach: quick heads, what they choose, marks of a store, and the app's page without and with a browser."""

import numpy as np
import pandas as pd
import pytest
import soundfile
from app_browser import CHROMIUM, DRIVER, Visitor, serve, until
from sklearn.linear_model import LogisticRegression
from streamlit.testing.v1 import AppTest
from test_app import PAGE
from test_search import make_store

import keras_birds
from keras_birds.app.example import write_example
from keras_birds.app.marks import MARKS, Mark, save_mark
from keras_birds.data.reviews import find_reviews
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.embeddings.teach import DEFAULT_WAY, STRENGTH, WAYS, quick_head, suggest
from keras_birds.embeddings.writer import StoreWriter, store_settings
from keras_birds.errors import DataError
from keras_birds.inference.embedder import Embedder
from keras_birds.inference.scorer import DEFAULT_OPTIONS, score_recordings


def test_a_quick_head_and_what_each_way_chooses(tmp_path):
    vectors = np.random.default_rng(0).gamma(0.5, 1.0, (40, 30, 32)).astype(np.float16).astype(np.float32)
    vectors[1] = vectors[0]
    store, flat = make_store(tmp_path / "s.emb", vectors, hop_s=1.5), vectors.reshape(-1, 32)
    rows, targets = np.array([0, 10, 60, 90, 1, 32, 63, 94, 125]), np.array([1, 1, 1, 1, 0, 0, 0, 0, 0])
    standardised = (flat - flat.mean(axis=0)) / flat.std(axis=0)
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=200)
    expected = model.fit(standardised[rows], targets).predict_proba(standardised)[:, 1]
    np.testing.assert_allclose(quick_head(store, rows, targets), expected, atol=2e-3)
    with pytest.raises(DataError, match=r"2 without\. Received: 4 and 1\. Mark more"):
        quick_head(store, rows[:5], targets[:5])

    scores, marked = np.linspace(0, 1, len(store), dtype=np.float32), np.arange(1190, 1200)
    chosen = {how: suggest(store, scores, marked, how, 12, seed=3) for how in WAYS}
    for found in chosen.values():
        assert (len(set(found)), set(found) & set(marked)) == (12, set())
        recording, window = np.divmod(np.sort(found), 30)
        assert (np.diff(window)[np.diff(recording) == 0] > 1).all()  # windows of 3 s begin every 1.5 s
    assert chosen["certain"].tolist() == list(range(1189, 1165, -2))
    assert np.abs(scores[chosen["boundary"]] - 0.5).max() < 0.02
    ranks = np.sort(1190 - chosen["spread"])
    assert (ranks[0] <= 2, ranks[6] < 100, ranks[-1] > 500) == (True, True, True)
    assert np.ptp(chosen["random"]) > 600
    of_copies = np.where(np.arange(len(store)) < 60, 1, scores)
    assert not {0, 30} <= set(suggest(store, of_copies, marked, "certain", 40))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Of three recordings of birds and a cat, of which the last is gone; six windows each."""
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
    return EmbeddingStore(folder / "s.emb")


def save_marks(path, store, *said):
    for row, verdict, reviewer in said:
        save_mark(path, store, Mark(row, "cat", verdict, reviewer, 0.25))


def test_the_page_searches_shows_what_others_say_and_teaches(store, tmp_path, monkeypatch):
    path = tmp_path / MARKS
    save_marks(path, store, (2, "right", "Ada"), (3, "wrong", "Ada"), (4, "wrong", "Ada"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sys.argv", ["page.py", "--embeddings", str(store.folder), "--reviews", str(tmp_path)]
    )
    page = AppTest.from_file(str(PAGE), default_timeout=120)
    page.query_params.update(label="cat", reviewer="Bob")
    page.run().button(key="search").click().run()
    assert "A head can be taught after 1 more yes." in [x.value for x in page.caption]
    hits = {x["row"]: x for x in page.session_state["grid_data"]["hits"]}
    assert (hits[2]["mine"], hits[2]["others"], hits[2]["picture"][:15]) == (
        "",
        "Ada ✓ yes",
        "data:image/png;",
    )
    gone = [x for row, x in hits.items() if row >= 12]
    assert {(x["problem"][:12], x["picture"]) for x in gone} == {("out of reach", "")}
    save_marks(path, store, (8, "right", "Ada"), (3, "right", "Bob"), (9, "wrong", "Bob"))
    page.run()
    assert page.selectbox(key="how").value == DEFAULT_WAY
    page.button(key="onward").click().run()
    told = "".join(x.value for x in (*page.caption, *page.markdown, *page.code))
    assert "Taught with 4 windows; all 18 scored" in told
    assert "2 yes and 2 no on which all agree; 2 marks are yours" in told
    assert f"--embeddings {store.folder} --reviews {tmp_path} --config head" in told
    assert page.dataframe[0].value["said"].tolist() == ["Ada ✗ no, Bob ✓ yes"]
    assert not page.exception
    save_marks(path, store, (2, None, "Ada"), (2, "unsure", "Bob"), (3, None, "Bob"), (9, "right", "Bob"))
    found = [
        (x.file, x.start_s, x.verdict, x.reviewer) for x in find_reviews(tmp_path)
    ]  # as training reads them
    a, b = (str(store.folder.with_name(f"{x}.flac")) for x in "ab")
    ada = [(a, 15, "wrong", "Ada"), (a, 20, "wrong", "Ada"), (b, 10, "right", "Ada")]
    assert sorted(found) == sorted([*ada, (a, 10, "unsure", "Bob"), (b, 15, "right", "Bob")])
    path.write_text("nothing")
    assert "must have" in page.run().error[0].value


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
def test_keys_mark_undo_and_teach_and_no_mark_of_a_quick_hand_is_lost(store, tmp_path):
    marks = tmp_path / MARKS
    where = "--embeddings", str(store.folder), "--reviews", str(tmp_path)
    with serve(tmp_path, *where) as address, Visitor(address, tmp_path) as visitor:
        visitor.open("?label=cat&reviewer=Ada")
        until(lambda: "drag over the call" in visitor.text())
        visitor.click_button("Search")
        until(lambda: len(visitor.all(".kb-hit")) == 12)
        visitor.press(*"ynyunzz", *"n y", "n")  # unsure and no are taken back
        shown = visitor.run("return [...document.querySelectorAll('.kb-said')].map(x => x.innerText)")
        assert shown[:8] == ["✓ yes", "✗ no", "✓ yes", "✗ no", "", "✓ yes", "✗ no", ""]
        until(lambda: marks.is_file() and pd.read_csv(marks)["verdict"].tolist().count("wrong") == 3)
        assert set(pd.read_csv(marks)["reviewer"]) == {"Ada"}
        until(lambda: "Teach, and show" in visitor.text())
        visitor.press("t")
        until(lambda: "Taught with 6 windows" in visitor.text())
