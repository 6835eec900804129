"""What several models say of the same sound: which detections agree, and one table of all of them."""

import itertools

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from keras_birds.labels import Label, LabelSet
from keras_birds.results.agreement import CommonLabels, Spans, agreeing, join_detections
from keras_birds.results.detections import detection_schema

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
