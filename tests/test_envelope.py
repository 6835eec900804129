import numpy as np
import pytest
import soundfile

from keras_birds.audio.envelope import read_envelope
from keras_birds.errors import AudioError

RATE_HZ = 8000


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("seconds", [0.06, 7.3, 131.07])
def test_the_outline_holds_each_cells_extremes(tmp_path, seconds, is_told):
    path, told = tmp_path / "a.flac", []
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.2, round(seconds * RATE_HZ)), RATE_HZ)
    samples, _ = soundfile.read(path, dtype="float32")
    if not is_told:  # as of a FLAC from a pipe
        content = path.read_bytes()
        path.write_bytes(content[:21] + bytes([content[21] & 0xF0, 0, 0, 0, 0]) + content[26:])
    found = read_envelope(path, max_cells=500, on_block=told.append)
    assert found.seconds == told[-1] == pytest.approx(seconds)
    size = round(found.cell_s * RATE_HZ)
    assert 250 < len(found.low) <= 500 or size == 16
    cells = np.split(samples, np.arange(size, len(samples), size))
    np.testing.assert_array_equal(found.low, [x.min() for x in cells])
    np.testing.assert_array_equal(found.high, [x.max() for x in cells])
    told.clear()
    with pytest.raises(AudioError, match=r"is longer than 0\.0005 min"):
        read_envelope(path, max_s=0.03, on_block=told.append)
    assert told == []  # before it is decoded
