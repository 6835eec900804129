"""Time expansion and the band of frequencies: bats at 250 to 500 kHz, in the recording's own seconds and Hz."""

import numpy as np
import pytest
import scipy.signal
import soundfile

from keras_birds.audio.band import band_passed, in_band
from keras_birds.audio.clips import crop_start
from keras_birds.audio.decode import decode, decode_clip, read_part
from keras_birds.config import AudioConfig, Config
from keras_birds.errors import ConfigError

BAND = AudioConfig(sample_rate_hz=32_000, f_low_hz=1500, f_high_hz=12_000)
BATS = AudioConfig(sample_rate_hz=16_000, clip_s=2.0, speed=0.1)


def test_a_band_is_the_same_in_blocks_of_any_size_and_in_parts(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 100_001).astype(np.float32)
    whole = in_band(noise, BAND)
    assert (len(whole), whole.dtype) == (len(noise), np.float32)
    for size in (1000, 40_000, 99_999):
        blocks = [noise[k : k + size, None] for k in range(0, len(noise), size)]
        np.testing.assert_array_equal(np.concatenate(list(band_passed(blocks, BAND)))[:, 0], whole)
    path = tmp_path / "a.wav"
    for rate_hz, atol in ((32_000, 1e-6), (48_000, 2e-4)):
        soundfile.write(path, noise, rate_hz, subtype="FLOAT")
        whole, audio = decode(path, BAND).samples, BAND.model_copy(update={"clip_s": 0.5})
        first, clip = crop_start(len(whole), 16_000, 0.5, 480), decode_clip(path, audio, 0.5, 480).samples
        np.testing.assert_allclose(clip, whole[first : first + 16_000], atol=atol)
        np.testing.assert_allclose(read_part(path, 0.5, 0.75, BAND), whole[16_000:24_000], atol=10 * atol)
    assert len(read_part(path, 2.0, 9.0, BAND)) == len(whole) - 64_000


@pytest.mark.parametrize(("low_hz", "high_hz"), [(1500, 0), (0, 12_000), (1500, 12_000), (16, 0)])
def test_what_lies_outside_of_a_band_is_60_db_down_and_nothing_moves(low_hz, high_hz):
    audio = BAND.model_copy(update={"f_low_hz": low_hz, "f_high_hz": high_hz})
    click = np.zeros(64_001, np.float32)
    click[32_000] = 1
    found = in_band(click, audio)
    np.testing.assert_allclose(found, found[::-1], atol=1e-7)
    hz, response = scipy.signal.freqz(found, worN=np.arange(1, 16_000, 1), fs=32_000)
    db = 20 * np.log10(np.abs(response) + 1e-9)
    inside = (hz > 1.25 * low_hz) & (hz < (high_hz / 1.125 or 16_000))
    outside = (hz < 0.75 * low_hz) | (hz > (1.125 * high_hz or 16_000))
    assert np.abs(db[inside]).max() < 0.1
    assert db[outside].max() < -59
    for bound_hz in filter(None, (low_hz, high_hz)):
        assert db[hz == bound_hz] == pytest.approx(-6, abs=0.1)


@pytest.mark.parametrize(
    ("audio", "words"),
    [
        ({"speed": 0}, r"audio\.speed: .*greater than or equal to 0\.01"),
        ({"f_low_hz": 3000, "f_high_hz": 2000}, r"f_low_hz must be below f_high_hz"),
        ({"f_low_hz": 16_000}, r"f_low_hz must be below .* half of audio\.sample_rate_hz \(16000\)"),
        ({"f_high_hz": 16_000}, r"f_high_hz must be below half of audio\.sample_rate_hz \(16000\)"),
        ({"f_low_hz": 3}, "f_low_hz must be 0 or at least 16"),
        ({"f_low_hz": 15_000}, "must leave something of the mel's 50 to 14000 Hz"),
    ],
)
def test_impossible_settings_are_refused(audio, words):
    with pytest.raises(ConfigError, match=words):
        Config.parse({"audio": audio})
