import numpy as np
import pytest

from keras_birds.audio.clips import center, crop_start, fill, sliding_windows, window_hop_samples
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
def test_windows_begin_where_they_should(n_samples, hop, expected):
    """In tenths of a clip of 5 s, of which two are the least tail."""
    audio = AudioConfig(sample_rate_hz=1000, clip_s=5.0)
    blocks = [np.zeros((500 * n_samples, 1), np.float32)]
    found = sliding_windows(blocks, audio, overlap_s=(10 - hop) / 2)
    assert [x.start_samples / 500 for x in found] == expected


def test_windows_cover_all_but_a_short_tail():
    audio = AudioConfig(sample_rate_hz=1000, clip_s=5.0)
    for n_samples in range(1, 30_000, 499):
        for overlap_s in (0.0, 0.5, 2.5, 4.5):
            windows = list(sliding_windows([np.zeros((n_samples, 1), np.float32)], audio, overlap_s))
            covered = np.zeros(n_samples, bool)
            for x in windows:
                assert 0 < x.n_samples <= n_samples - x.start_samples
                covered[x.start_samples : x.start_samples + x.n_samples] = True
            assert (~covered).sum() < 1000, (n_samples, overlap_s)
            assert np.all(np.diff([x.start_samples for x in windows]) == 5000 - 1000 * overlap_s)


AUDIO = AudioConfig(sample_rate_hz=1000, clip_s=2.0)


def test_windows_fill_the_last_one_and_tell_how_much_it_holds():
    samples = np.arange(5500, dtype=np.float32)
    found = list(sliding_windows([samples[:, None]], AUDIO))
    assert [(x.start_samples, x.n_samples, x.channel) for x in found] == [
        (0, 2000, 0),
        (2000, 2000, 0),
        (4000, 1500, 0),
    ]
    np.testing.assert_array_equal(found[2].clip, np.tile(samples[4000:], 2)[:2000])


def test_windows_drop_a_tail_under_one_second():
    assert [len(list(sliding_windows([np.zeros((n, 1), np.float32)], AUDIO))) for n in (4999, 5000, 300)] == [
        2,
        3,
        1,
    ]


@pytest.mark.parametrize("overlap_s", [0.0, 0.5, 1.25, 1.75])
def test_windows_are_those_of_the_whole_recording_however_it_comes_in_blocks(overlap_s):
    rng = np.random.default_rng(0)
    for n in (1, 300, 1999, 2000, 2001, 2999, 3000, 4999, 5000, 9001):
        samples = rng.normal(size=(n, 2)).astype(np.float32)
        blocks = np.split(samples, np.sort(rng.integers(0, n + 1, 7)))
        whole = list(sliding_windows([samples], AUDIO, overlap_s, (1, 2)))
        found = list(sliding_windows(blocks, AUDIO, overlap_s, (1, 2)))
        assert [(x.start_samples, x.channel) for x in found] == [(x.start_samples, x.channel) for x in whole]
        for x in found:
            part = samples[x.start_samples : x.start_samples + 2000, x.channel - 1]
            assert x.n_samples == len(part)
            np.testing.assert_array_equal(x.clip, fill(part, 2000))


@pytest.mark.parametrize("overlap_s", [-0.5, 5.0, 7.0])
def test_overlap_must_leave_a_step_forward(overlap_s):
    with pytest.raises(ConfigError, match=r"overlap must be .* less than the clip's 5 s"):
        window_hop_samples(AudioConfig(), overlap_s)
