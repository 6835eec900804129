import numpy as np
import pytest

from keras_birds.audio.clips import center, crop_start, fill, sliding_windows, window_hop_samples
from keras_birds.config import AudioConfig
from keras_birds.errors import ConfigError

AUDIO = AudioConfig(sample_rate_hz=1000, clip_s=2.0)


def test_fill_repeats_what_is_short_from_its_beginning_and_center_is_the_middle():
    np.testing.assert_array_equal(fill(np.array([1, 2, 3]), 8), [1, 2, 3, 1, 2, 3, 1, 2])
    samples = np.arange(5)
    assert fill(samples, 5) is samples
    np.testing.assert_array_equal(fill(np.array([1, 2, 3]), 5, "silence"), [1, 2, 3, 0, 0])
    with pytest.raises(ValueError, match="at least one sample"):
        fill(np.zeros(0), 4)
    for n, first in {4: 0, 5: 0, 6: 1, 10: 3, 11: 3}.items():
        np.testing.assert_array_equal(center(np.arange(n), 4), np.arange(first, first + 4))
    np.testing.assert_array_equal(center(np.arange(3), 4), [0, 1, 2, 0])
    np.testing.assert_array_equal(center(np.arange(10), 3), [4, 5, 6])


def test_crop_start_spreads_positions_over_all_starts():
    starts = [crop_start(100, 40, position, snap_samples=16) for position in np.linspace(0, 1, 400)]
    found, counts = np.unique(starts, return_counts=True)
    assert list(found) == [0, 16, 32, 48]
    assert np.ptp(counts) <= 2
    assert crop_start(30, 40, 0.9) == crop_start(30, 40) == crop_start(40, 40, 1.0) == 0
    for position in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="from 0 to 1"):
            crop_start(100, 40, position)


@pytest.mark.parametrize(
    ("n_samples", "overlap_s", "expected"),
    [
        (0, 0.0, []),
        (300, 0.0, [0]),
        (2000, 0.0, [0]),
        (2999, 0.0, [0]),  # a tail of less than a second
        (3000, 0.0, [0, 2000]),
        (5500, 0.0, [0, 2000, 4000]),
        (4000, 1.0, [0, 1000, 2000]),  # all is covered, no further window
        (4001, 1.0, [0, 1000, 2000, 3000]),  # the last sample is in no full window
        (4001, 1.5, [0, 500, 1000, 1500, 2000, 2500]),
        (9001, 1.25, [*range(0, 7501, 750)]),
    ],
)
def test_windows_begin_where_they_should_and_hold_what_is_there(n_samples, overlap_s, expected):
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(n_samples, 2)).astype(np.float32)
    lengths = [min(2000, n_samples - x) for x in expected]
    for n_blocks in (1, 2, 8, 40):
        blocks = np.split(samples, np.sort(rng.integers(0, n_samples + 1, n_blocks - 1)))
        found = list(sliding_windows(blocks, AUDIO, overlap_s, (1, 2)))
        assert [(x.start_samples, x.n_samples, x.channel) for x in found] == [
            (*x, channel) for x in zip(expected, lengths, strict=True) for channel in (1, 2)
        ]
        for x in found:
            part = samples[x.start_samples :][: x.n_samples, x.channel - 1]
            np.testing.assert_array_equal(x.clip, fill(part, 2000))
    assert {x.channel for x in sliding_windows([samples[:, :1]], AUDIO)} <= {0}


@pytest.mark.parametrize("overlap_s", [-0.5, 5.0, 7.0, np.nan])
def test_overlap_must_leave_a_step_forward(overlap_s):
    with pytest.raises(ConfigError, match=r"overlap must be .* less than the clip's 5 s"):
        window_hop_samples(AudioConfig(), overlap_s)
