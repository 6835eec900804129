import numpy as np
import pytest
import soundfile

from keras_birds.audio.decode import read_part
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


def test_what_is_too_long_is_refused_before_it_is_decoded(write_tone):
    decoded = []
    with pytest.raises(AudioError, match="is longer than 1 min"):
        read_envelope(write_tone("long.wav", seconds=61), max_s=60, on_block=decoded.append)
    assert decoded == []


def test_a_part_is_what_lies_there_mixed_and_resampled(tmp_path, write_tone):
    stereo = np.random.default_rng(1).normal(0, 0.1, (10 * RATE_HZ, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", stereo, RATE_HZ, subtype="FLOAT")
    for begin_s, end_s in ((3.0, 4.5), (9.5, 12.0), (11.0, 12.0)):
        part = read_part(tmp_path / "a.wav", begin_s, end_s, RATE_HZ)
        expected = stereo[int(begin_s * RATE_HZ) : int(end_s * RATE_HZ)].mean(axis=1)
        np.testing.assert_allclose(part, expected, atol=1e-7)
    tone = read_part(write_tone("b.flac", 1000.0, seconds=5, rate=44_100), 1.0, 3.0, 32_000)
    assert len(tone) == 64_000
    assert np.argmax(np.abs(np.fft.rfft(tone))) == pytest.approx(2000, abs=1)
