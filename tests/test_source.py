import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import soundfile

from keras_birds.audio.decode import decode, decode_clip
from keras_birds.audio.mel import MelTransform
from keras_birds.config import AudioConfig, Config, MelConfig
from keras_birds.data.source import CachedSource, JoinedSource, OnTheFlySource
from keras_birds.errors import AudioError, DataError
from keras_birds.progress import Reporter
from keras_birds.training.run import background_paths, background_source

AUDIO, RANDOM = (AudioConfig(sample_rate_hz=16_000, clip_s=1.0, crop=x) for x in ("center", "random"))
MEL = MelConfig(n_fft=512, hop_samples=256, n_mels=32, n_mfcc=20, f_max_hz=8000, height=48, width=40)


@pytest.fixture
def paths(tmp_path):
    """Recordings shorter than a clip, as long as one, and longer, at two rates."""
    for i, (seconds, rate) in enumerate([(0.4, 16_000), (1.0, 16_000), (3.3, 16_000), (2.7, 22_050)]):
        samples = np.random.default_rng(i).normal(0, 0.1, round(seconds * rate))
        soundfile.write(tmp_path / f"{i}.flac", samples, rate)
    return sorted(tmp_path.iterdir())


def test_centre_crops_are_what_prediction_computes(paths):
    source = OnTheFlySource(paths, AUDIO, MEL)
    images = source.images(np.arange(4))
    clips = np.stack([decode_clip(path, AUDIO).samples for path in paths])
    np.testing.assert_array_equal(images, MelTransform(AUDIO, MEL).images(clips))
    cached = CachedSource(source, max_bytes=2 * images[0].nbytes)
    np.testing.assert_array_equal(cached.images(np.array([2, 0, 2, 1])), images[[2, 0, 2, 1]])
    for path in paths:
        path.unlink()
    np.testing.assert_array_equal(cached.images(np.array([0, 2])), images[[0, 2]])
    with pytest.raises(AudioError):
        cached.images(np.array([1]))
    assert source.images(np.array([], int)).shape == (0, 48, 40, 1)
    assert len(source) == len(cached) == 4
    available_bytes = psutil.virtual_memory().available
    assert CachedSource(source).max_bytes == pytest.approx(available_bytes / 4, rel=0.1)


def test_joined_sources_count_on(paths):
    first = CachedSource(OnTheFlySource(paths[:1], RANDOM, MEL))
    second = OnTheFlySource(paths[1:], RANDOM, MEL)
    joined, whole = JoinedSource(first, second), OnTheFlySource(paths, RANDOM, MEL)
    assert len(joined) == len(joined.usable) == len(joined.reasons) == 4
    for rows in ([2, 0, 3, 0], [0], [3, 1], []):
        positions = np.linspace(0, 1, len(rows))
        expected = whole.images(np.array(rows, int), positions)
        np.testing.assert_array_equal(joined.images(np.array(rows, int), positions), expected)
    second.usable[1], second.reasons[1] = False, "noise"
    late = JoinedSource(first, second)
    assert late.usable.tolist() == [True, True, False, True]
    assert late.reasons[2] == "noise"


def test_a_random_crop_is_a_slice_of_the_whole_spectrogram(paths):
    row, source = np.array([2]), OnTheFlySource(paths, RANDOM, MEL)
    transform = source.transform
    whole = transform.decibels(decode(paths[2], 16_000).samples)
    spare_hops = (round(3.3 * 16_000) - 16_000) // 256
    for position in (0.0, 0.4, 1.0):
        start = min(int(position * (spare_hops + 1)), spare_hops)
        expected = transform.normalise(whole[:, start : start + transform.num_frames])
        crop = source.images(row, np.array([position]))
        np.testing.assert_allclose(crop, transform.resize(expected[None]), atol=1e-5)
    for audio, is_same in ((RANDOM, False), (AUDIO, True)):
        source = OnTheFlySource(paths, audio, MEL)
        assert np.array_equal(source.images(row, np.array([0.0])), source.images(row)) == is_same


def test_unusable_recordings_have_no_image(paths):
    statuses = ["ok", "corrupt", "partial", "silent"]
    table = pd.DataFrame({"path": map(str, paths), "status": statuses, "reason": "is noise"})
    source = OnTheFlySource(paths, AUDIO, MEL, manifest=table)
    assert source.usable.tolist() == [True, False, True, True]
    assert source.reasons == ["", "is noise", "", ""]
    with pytest.raises(DataError, match=r"row 1 \(is noise\)"):
        source.images(np.array([0, 1]))
    assert len(source.images(np.array([0, 2, 3]))) == 3
    with pytest.raises(DataError, match="in its order"):
        OnTheFlySource(paths[::-1], AUDIO, MEL, manifest=table)
    paths[0].write_bytes(b"not audio")
    with pytest.raises(AudioError, match="is not audio"):
        source.images(np.array([0]))


def test_backgrounds_may_have_names_that_are_not_utf_8_and_hidden_ones_are_passed_over(write_tone, tmp_path):
    first = write_tone("sounds/a.wav", seconds=1)
    odd = Path(os.fsdecode(os.fsencode(first.parent) + b"/r\xe9\r.wav"))
    try:
        shutil.copy(first, odd)
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    (first.parent / "._a.wav").touch()
    config = Config.load("baseline", [f"data.background={first.parent}", "data.background_fraction=0.1"])
    paths = background_paths(config)
    assert paths == [str(first), str(odd)]
    images = background_source(tmp_path, paths, config, Reporter()).images(np.arange(2))
    np.testing.assert_array_equal(images[0], images[1])
    assert background_source(tmp_path, paths, config).usable.tolist() == [True, True]
