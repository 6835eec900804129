import json
import re

import numpy as np
import pandas as pd
import pytest
from scored_run import NUM_FOLDS, PER_FOLD, make_scores, write_scored_run

from keras_birds.errors import DataError
from keras_birds.evaluation.bootstrap import Interval, macro_auc_draws
from keras_birds.evaluation.compare import compare_runs
from keras_birds.nn.metrics import macro_auc


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A weak run and a better one; read-only."""
    folder = tmp_path_factory.mktemp("runs")
    return (
        write_scored_run(folder / "weak", skill=1.0, training={"epochs": 5}),
        write_scored_run(folder / "good", skill=1.5, training={"epochs": 7}, model={"dropout": 0.3}),
    )


def test_differences_are_paired(runs):
    found = compare_runs(*runs)
    areas, draws = [], []
    for fold, difference in enumerate(found.folds):
        scores = [make_scores(fold, skill=skill) for skill in (1.0, 1.5)]
        areas.append([macro_auc(*x) for x in scores])
        assert (difference.a, difference.b) == tuple(areas[-1])
        assert difference.recordings == PER_FOLD
        draws.append(macro_auc_draws(*scores[1]) - macro_auc_draws(*scores[0]))
        low, high = np.quantile(draws[-1], [0.025, 0.975])
        assert (difference.difference.low, difference.difference.high) == pytest.approx((low, high))
        # The same recordings for both: far narrower than without.
        apart = macro_auc_draws(*scores[1]) - macro_auc_draws(*scores[0])[::-1]
        assert high - low < 0.8 * np.subtract(*np.quantile(apart, [0.975, 0.025]))
    a, b = np.mean(areas, axis=0)
    assert (found.mean.a, found.mean.b) == pytest.approx((a, b))
    assert found.mean.difference.value == pytest.approx(b - a)
    assert found.mean.difference.low == pytest.approx(np.quantile(np.mean(draws, axis=0), 0.025))
    assert found.is_clear
    assert found.settings == {"training.epochs": (5, 7), "model.dropout": (0.2, 0.3)}


def test_a_run_does_not_differ_from_itself(runs):
    found = compare_runs(runs[0], runs[0])
    assert found.mean.difference == Interval(0, 0, 0)
    assert not found.is_clear
    assert found.settings == {}


def test_the_order_of_recordings_does_not_matter_but_others_are_named(runs, tmp_path):
    other = write_scored_run(tmp_path / "other", skill=1.5)
    for path in other.glob("fold*/oof.parquet"):
        table = pd.read_parquet(path).sample(frac=1, random_state=0)
        table.to_parquet(path, index=False)
    assert compare_runs(runs[0], other).mean.difference == compare_runs(*runs).mean.difference
    path = other / "fold1" / "oof.parquet"
    table = pd.read_parquet(path).sort_values("path", ignore_index=True)
    table.assign(path=["elsewhere.wav", *table["path"][1:]]).to_parquet(path)
    with pytest.raises(DataError, match=r"fold 1 of both runs .*: elsewhere\.wav and 1 more in only one"):
        compare_runs(runs[0], other)
    table.loc[3, "target/whtdov"] = 0.5
    table.to_parquet(path)
    with pytest.raises(DataError, match=f"fold 1 .*: other labels of {table['path'][3]}"):
        compare_runs(runs[0], other)


def test_only_folds_of_both_are_compared(runs, tmp_path):
    other = write_scored_run(tmp_path / "other", num_folds=2)
    assert [x.fold for x in compare_runs(runs[0], other).folds] == [0, 1]
    (other / "fold0" / "model.onnx").unlink()
    (other / "fold1").rename(other / "fold7")
    with pytest.raises(DataError, match=r"a fold in common\. Received: folds 0, 1, 2 and 7"):
        compare_runs(runs[0], other)


def test_the_command(runs, run_command, tmp_path):
    code, printed, err = run_command("compare", *runs)
    assert (code, err) == (0, "")
    found = compare_runs(*runs).mean
    low, high = found.difference.low, found.difference.high
    assert re.search(
        rf"mean +{NUM_FOLDS * PER_FOLD} +{found.a:.4f} +{found.b:.4f} +\+{found.difference.value:.4f}"
        rf"  \+{low:.4f} to \+{high:.4f}\n",
        printed,
    )
    assert "B is better" in printed
    assert "model.dropout: 0.2 in A, 0.3 in B" in printed
    assert "A is better" in run_command("compare", *reversed(runs))[1]
    _, printed, _ = run_command("compare", runs[0], runs[0])
    assert "No clear difference" in printed
    assert "No setting differs." in printed
    _, printed, _ = run_command("compare", *runs, "--format", "json")
    assert json.loads(printed) == json.loads(json.dumps(compare_runs(*runs).to_dict()))
    code, _, err = run_command("compare", runs[0], tmp_path)
    assert (code, "must be a run directory" in err) == (1, True)
