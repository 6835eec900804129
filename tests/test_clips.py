import numpy as np
import pytest

from keras_birds.audio.clips import center, crop_start, fill, window_hop_samples, window_starts, windows
from keras_birds.config import AudioConfig
from keras_birds.errors import ConfigError


def test_fill_repeats_the_recording_from_its_beginning():
    np.testing.assert_array_equal(fill(np.array([1, 2, 3]), 8), [1, 2, 3, 1, 2, 3, 1, 2])


def test_fill_leaves_what_is_long_enough():
    samples = np.arange(5)
    assert fill(samples, 5) is samples


def test_fill_refuses_nothing():
    with pytest.raises(ValueError, match="at least one sample"):
        fill(np.zeros(0), 4)


@pytest.mark.parametrize(
    ("n_samples", "expected"),
    [(10, [3, 4, 5, 6]), (11, [3, 4, 5, 6]), (4, [0, 1, 2, 3]), (3, [0, 1, 2, 0]), (5, [0, 1, 2, 3])],
)
def test_center_is_the_middle(n_samples, expected):
    np.testing.assert_array_equal(center(np.arange(n_samples), 4), expected)


def test_crop_start_spreads_positions_over_all_starts():
    starts = [crop_start(100, 40, position, snap_samples=16) for position in np.linspace(0, 1, 400)]
    assert sorted(set(starts)) == [0, 16, 32, 48]
    counts = np.unique(starts, return_counts=True)[1]
    assert counts.max() - counts.min() <= 2


def test_crop_start_of_a_short_recording_is_its_beginning():
    assert crop_start(30, 40, 0.9) == crop_start(30, 40) == crop_start(40, 40, 1.0) == 0


@pytest.mark.parametrize("position", [-0.1, 1.1, np.nan])
def test_crop_start_refuses_positions_outside_0_to_1(position):
    with pytest.raises(ValueError, match="from 0 to 1"):
        crop_start(100, 40, position)


@pytest.mark.parametrize(
    ("n_samples", "hop", "expected"),
    [
        (0, 10, []),
        (3, 10, [0]),
        (10, 10, [0]),
        (11, 10, [0]),  # a tail of 1 is less than the least
        (12, 10, [0, 10]),  # a tail of 2 is scored
        (20, 10, [0, 10]),
        (22, 10, [0, 10, 20]),
        (20, 5, [0, 5, 10]),  # overlap: all is covered, no further window
        (21, 5, [0, 5, 10, 15]),  # the last sample is in no full window
    ],
)
def test_window_starts_by_hand(n_samples, hop, expected):
    np.testing.assert_array_equal(window_starts(n_samples, 10, hop, 2), expected)


def test_windows_cover_all_but_a_short_tail():
    for n_samples in range(1, 60):
        for hop in range(1, 11):
            starts = window_starts(n_samples, 10, hop, 3)
            covered = np.zeros(n_samples, bool)
            for start in starts:
                assert start < n_samples
                covered[start : start + 10] = True
            assert (~covered).sum() < 3, (n_samples, hop)
            assert np.all(np.diff(starts) == hop)


def test_window_starts_refuses_standing_still():
    with pytest.raises(ValueError, match="hop_samples"):
        window_starts(10, 5, 0, 1)


def test_windows_fill_the_last_one_and_tell_the_real_end():
    audio = AudioConfig(sample_rate_hz=1000, clip_s=2.0)
    samples = np.arange(5500, dtype=np.float32)
    clips, start_s, end_s = windows(samples, audio)
    assert clips.shape == (3, 2000)
    np.testing.assert_array_equal(start_s, [0, 2, 4])
    np.testing.assert_array_equal(end_s, [2, 4, 5.5])
    np.testing.assert_array_equal(clips[2], np.tile(samples[4000:], 2)[:2000])


def test_windows_drop_a_tail_under_one_second():
    audio = AudioConfig(sample_rate_hz=1000, clip_s=2.0)
    assert len(windows(np.zeros(4999, np.float32), audio)[0]) == 2
    assert len(windows(np.zeros(5000, np.float32), audio)[0]) == 3
    assert len(windows(np.zeros(300, np.float32), audio)[0]) == 1


@pytest.mark.parametrize("overlap_s", [-0.5, 5.0, 7.0])
def test_overlap_must_leave_a_step_forward(overlap_s):
    with pytest.raises(ConfigError, match=r"overlap must be .* less than the clip's 5 s"):
        window_hop_samples(AudioConfig(), overlap_s)
