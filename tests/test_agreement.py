"""What several models say of the same sound: which detections agree, and one table of all of them."""

import itertools

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from placeholder import AUDIO, LABELS, MEL, make_metadata, write_constant_model
from scipy.special import expit

from keras_birds.labels import Label, LabelSet
from keras_birds.results.agreement import CommonLabels, Spans, agreeing, join_detections
from keras_birds.results.detections import detection_schema
from keras_birds.results.journal import Journal, read_entries

OURS = LabelSet(
    [Label("whtdov", "Leptotila verreauxi"), Label("bkcdon", "Nyctidromus albicollis"), Label("mouse")]
)
BIRDNET = LabelSet(
    [
        Label("Engine_Engine", "Engine", "Engine"),
        Label("Nyctidromus albicollis_Common Pauraque", "Nyctidromus albicollis", "Common Pauraque"),
        Label("Leptotila verreauxi_White-tipped Dove", "Leptotila verreauxi", "White-tipped Dove"),
    ]
)


def table(model, rows):
    """Rows of start, end, label and score."""
    names = {x.name: x for x in (*OURS.items, *BIRDNET.items)}
    columns = {"file": "a.wav", "channel": 0, "model_id": model, "scientific_name": "", "common_name": ""}
    found = [
        columns
        | {"start_s": a, "end_s": b, "label": label, "score": score}
        | {"scientific_name": names[label].scientific_name, "common_name": names[label].common_name}
        for a, b, label, score in rows
    ]
    return pa.Table.from_pylist(found, detection_schema())


def test_detections_agree_where_half_of_the_shorter_is_common_as_every_pair_tried_says():
    rng = np.random.default_rng(0)

    def spans(window_s, hop_s, n):
        start_s = np.sort(rng.choice(np.arange(0, 60, hop_s), n))
        return Spans(start_s, start_s + window_s, rng.integers(1, 3, n), rng.integers(0, 3, n))

    for first, second in ((spans(5, 2.5, 40), spans(3, 3, 30)), (spans(3, 1, 60), spans(5, 5, 20))):
        expected = {
            (i, j)
            for i, j in itertools.product(range(len(first.label)), range(len(second.label)))
            if first.label[i] == second.label[j]
            and first.channel[i] == second.channel[j]
            and min(first.end_s[i], second.end_s[j]) - max(first.start_s[i], second.start_s[j]) >= 1.5
        }
        found = list(zip(*agreeing(first, second), strict=True))
        assert len(found) == len(expected) > 10
        assert set(found) == expected


def test_a_row_has_the_scores_of_all_that_agree_and_what_one_alone_says_a_row_of_its_own():
    ours = table("ours", [(0, 5, "whtdov", 0.5), (5, 10, "whtdov", 0.6), (5, 10, "mouse", 0.9)])
    theirs = table(
        "birdnet",
        [
            *((0, 3, BIRDNET[2], 0.7), (3, 6, BIRDNET[2], 0.8), (9, 12, BIRDNET[2], 0.3)),
            *((6, 9, BIRDNET[1], 0.4), (6, 9, "Engine_Engine", 0.95)),
        ],
    )
    common = CommonLabels([OURS, BIRDNET])
    assert list(common.labels) == [*OURS, "Engine_Engine"]
    assert (common.only(0), common.only(1)) == (["mouse"], ["Engine_Engine"])
    found = join_detections([ours, theirs], common).to_pandas()
    shown = found[["start_s", "label", "model_id", "score", "score_1", "score_2"]]
    expected = [
        (0.0, "whtdov", "ours", 0.5, 0.5, 0.8),  # the best of 0 to 3 and 3 to 6 s
        (5.0, "mouse", "ours", 0.9, 0.9, np.nan),
        (5.0, "whtdov", "ours", 0.6, 0.6, np.nan),  # 9 to 12 s has 1 s of it
        (6.0, "Engine_Engine", "birdnet", 0.95, np.nan, 0.95),
        (6.0, "bkcdon", "birdnet", 0.4, np.nan, 0.4),
        (9.0, "whtdov", "birdnet", 0.3, np.nan, 0.3),
    ]
    wanted = pd.DataFrame(expected, columns=shown.columns)
    pd.testing.assert_frame_equal(shown, wanted, check_dtype=False, rtol=1e-6)
    assert found.loc[4, ["scientific_name", "common_name"]].tolist() == ["Nyctidromus albicollis", ""]
    assert join_detections([ours, theirs], common, least=2)["start_s"].to_pylist() == [0.0]
    assert len(join_detections([ours.slice(0, 0), theirs.slice(0, 0)], common)) == 0
    # What the first takes up takes up nothing itself, which would be in no row.
    chain = [
        table(name, [(*span, "whtdov", 0.5)])
        for name, span in (("a", (0, 3)), ("b", (1.5, 6.5)), ("c", (5, 8)))
    ]
    assert join_detections(chain, CommonLabels([OURS] * 3))["start_s"].to_pylist() == [0.0, 5.0]


@pytest.mark.parametrize("is_split_first", [True, False])
def test_a_species_that_was_split_since_agrees_with_each_of_its_parts(is_split_first):
    whole = LabelSet([Label("gull", "Larus argentatus")])
    parts = LabelSet([Label("hergul", "Larus argentatus"), Label("amhgul1", "Larus smithsonianus")])
    models = [parts, whole] if is_split_first else [whole, parts]
    common = CommonLabels(models)
    assert [common.only(k) for k in range(2)] == [[], []]
    columns = {"file": "a.wav", "channel": 0, "model_id": "", "scientific_name": "", "common_name": ""}
    columns |= {"start_s": 0.0, "end_s": 3.0, "score": 0.5}
    tables = [pa.Table.from_pylist([columns | {"label": y} for y in x], detection_schema()) for x in models]
    joined = join_detections(tables, common, least=2)
    assert sorted(joined["label"].to_pylist()) == sorted(models[0])


def test_two_models_score_side_by_side_and_the_same_command_goes_on(run_command, tmp_path, write_tone):
    ours = write_constant_model(tmp_path / "a.onnx", [1.0, 2.0, -9.0, -9.0])
    longer = {"audio": AUDIO.model_copy(update={"clip_s": 3.0}), "model_id": "theirs"}
    known = LabelSet([Label("x", "Nobody else"), *LABELS.items[1:3], Label("y", "Lithobates palmipes")])
    theirs = write_constant_model(
        tmp_path / "b.onnx", [3.0, 0.5, -9.0, -9.0], make_metadata(**longer, labels=known)
    )
    models = ("--model", ours, "--model", theirs)

    def detect(out, *more, code=0):
        found, _, err = run_command("detect", tmp_path / "disk", "--out", tmp_path / out, *models, *more)
        assert found == code, err
        return err

    def table(out):
        found = pd.read_csv(tmp_path / out / "detections.csv")
        return found.sort_values(["file", "start_s", "label"], ignore_index=True)

    write_tone("disk/0.wav", seconds=6)
    said = detect("out")
    assert "2 of 4 labels of placeholder/fold0 are of no other model" not in said
    assert "1 of 4 labels of theirs are of no other model, for instance x" in said
    assert "8 new detections, 5 said by 1, 3 said by 2 of 2 models" in said
    write_tone("disk/1.flac", seconds=6)
    (tmp_path / "disk" / "bad.wav").write_text("no sound")
    assert "3 recordings: 1 scored, 1 scored before, 1 failed" in detect("out", code=1)
    found = table("out")
    one = found[found["file"].str.endswith("1.flac")]
    dove = one[one["label"] == "whtdov"]
    assert dove[["start_s", "end_s", "model_id"]].to_numpy().tolist() == [
        [2 * k, 2 * k + 2, "placeholder/fold0"] for k in range(3)
    ]
    np.testing.assert_allclose(dove[["score_1", "score_2"]], [[expit(2), expit(0.5)]] * 3, rtol=1e-4)
    alone = one[one["label"] == "x"]
    assert alone["start_s"].tolist() == [0, 3]
    assert alone["score_1"].isna().all()
    detect("whole", code=1)
    pd.testing.assert_frame_equal(found, table("whole"))
    manifest = pd.read_csv(tmp_path / "out" / "manifest.csv")
    assert sorted(zip(manifest["status"], manifest["detections"], strict=True)) == [
        *(("corrupt", 0), ("ok", 8), ("ok", 8))
    ]
    assert {x.recording.detections for x in read_entries(tmp_path / "out" / "models" / "1")} == {0, 4}
    settings = Journal(tmp_path / "out", None).settings
    assert settings["model_id"] == "placeholder/fold0+theirs"
    assert (settings["licence"], settings["band_hz"]) == ("Apache-2.0", [MEL.f_min_hz, MEL.f_max_hz])
    detect("both", "--agree", "2", "--format", "parquet", "--format", "json", code=1)
    assert set(pd.read_parquet(tmp_path / "both" / "detections.parquet")["label"]) == {"whtdov"}
    detect("scored", "--keep-scores", code=1)
    from_all = (
        "segments",
        tmp_path / "scored",
        "--pick",
        "stratified",
        "--label",
        "whtdov",
        "--out",
        tmp_path / "clips",
    )
    assert f"take {tmp_path / 'scored' / 'models' / '0'}, 1" in run_command(*from_all)[2]
    for wrong in (("--agree", "3"), ("--format", "birdclef"), ("--average", "rank")):
        assert "Received: " in detect("new", *wrong, code=2)
    assert "agree is 2, was 1" in detect("out", "--agree", "2", code=2)
    assert not (tmp_path / "new").exists()
    write_tone("disk/bad.wav", seconds=6)
    detect("out")
    assert set(pd.read_csv(tmp_path / "out" / "manifest.csv")["status"]) == {"ok"}
