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
    data, trained, *others = (tmp_path / said[x].strip() for x in ("Data set", "Run", "Model", "Figure"))
    assert all(place.exists() for place in others)
    assert len(list((data / "train_audio").glob("*/*.ogg"))) == 320
    history = pd.read_csv(trained / "fold0" / "history.csv")
    assert history["val_macro_auc"][0] < 0.8, "nothing was left to learn"
    assert history["val_macro_auc"].max() > 0.95
    assert float(output.split("macro ROC-AUC ")[1].split()[0]) > 0.95
    assert "Scaleclimber" in next(line for line in output.splitlines() if line.split()[:1] == ["1"])
    predict = ("predict", data / "test_soundscapes", "--model", trained, "--format", "csv")
    assert "risscl1" in run(command, *predict, cwd=tmp_path).splitlines()[1]
