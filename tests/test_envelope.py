import numpy as np
import pytest
import soundfile

from keras_birds.audio.envelope import read_envelope
from keras_birds.errors import AudioError

RATE_HZ = 8000


@pytest.mark.parametrize("seconds", [0.06, 7.3, 131.07])
def test_the_outline_holds_each_cells_extremes(tmp_path, seconds):
    samples = np.random.default_rng(0).normal(0, 0.2, round(seconds * RATE_HZ)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ, subtype="FLOAT")
    told = []
    found = read_envelope(tmp_path / "a.wav", max_cells=500, on_block=told.append)
    assert found.seconds == told[-1] == pytest.approx(seconds)
    size = round(found.cell_s * RATE_HZ)
    assert 250 < len(found.low) <= 500 or size == 16
    cells = np.split(samples, np.arange(size, len(samples), size))
    np.testing.assert_array_equal(found.low, [x.min() for x in cells])
    np.testing.assert_array_equal(found.high, [x.max() for x in cells])
    told.clear()
    with pytest.raises(AudioError, match=r"is longer than 0\.0005 min"):
        read_envelope(tmp_path / "a.wav", max_s=0.03, on_block=told.append)
    assert told == []  # before it is decoded
