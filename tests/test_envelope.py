import io

import numpy as np
import pytest
import soundfile
from sounds import encoded, noise

from keras_birds.audio.envelope import read_envelope
from keras_birds.errors import AudioError


@pytest.mark.parametrize("seconds", [0.06, 7.3, 131.07])
def test_the_outline_holds_each_cells_extremes(tmp_path, seconds):
    path, content = tmp_path / "a.flac", encoded(noise(seconds, 8000), "flac", rate_hz=8000)
    samples, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    # As a FLAC from a pipe, without its length.
    for written in (content[:21] + bytes([content[21] & 0xF0, 0, 0, 0, 0]) + content[26:], content):
        path.write_bytes(written)
        found = read_envelope(path, max_cells=500, on_block=(told := []).append)
        assert found.seconds == told[-1] == pytest.approx(seconds)
        size = round(found.cell_s * 8000)
        assert 250 < len(found.low) <= 500 or size == 16
        cells = np.split(samples, np.arange(size, len(samples), size))
        np.testing.assert_array_equal(found.low, [x.min() for x in cells])
        np.testing.assert_array_equal(found.high, [x.max() for x in cells])
    told.clear()
    with pytest.raises(AudioError, match=r"is longer than 0\.0005 min"):
        read_envelope(path, max_s=0.03, on_block=told.append)
    assert told == []  # before it is decoded
