"""`keras-birds demo` as a newcomer runs it: installed, and outside of the checkout."""

import pandas as pd
import pytest
from test_wheel import environment, run, wheel  # noqa: F401 - two fixtures


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_learns_and_says_where_everything_is(environment, tmp_path):  # noqa: F811
    command = environment / "keras-birds"
    output = run(command, "demo", cwd=tmp_path, timeout_s=800)
    said = dict(line.split(":", 1) for line in output.splitlines() if ": " in line)
    places = {name: tmp_path / said[name].strip() for name in ("Data set", "Run", "Model", "Figure")}
    assert all(place.exists() for place in places.values())
    assert len(list((places["Data set"] / "train_audio").glob("*/*.ogg"))) == 320

    history = pd.read_csv(places["Run"] / "fold0" / "history.csv")
    assert history["val_macro_auc"][0] < 0.8, "nothing was left to learn"
    assert history["val_macro_auc"].max() > 0.95
    assert float(output.split("macro ROC-AUC ")[1].split()[0]) > 0.95
    top = next(line for line in output.splitlines() if line.split()[:1] == ["1"])
    assert "Scaleclimber" in top

    table = places["Data set"] / "train.csv"
    made = table.stat().st_mtime_ns
    recordings = places["Data set"] / "test_soundscapes"
    answer = run(command, "predict", recordings, "--model", places["Run"], "--format", "csv", cwd=tmp_path)
    assert "risscl1" in answer.splitlines()[1]
    assert table.stat().st_mtime_ns == made
