"""The tensorflow-io decoder: `make test-tfio` runs the marked tests in the environment it needs."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from keras_birds.audio.decode import decode, decode_clip
from keras_birds.config import AudioConfig
from keras_birds.errors import AudioError, ConfigError


@pytest.mark.tfio
@pytest.mark.parametrize(("rate", "channels"), [(32_000, 1), (44_100, 2), (22_050, 1)])
def test_whole_recordings_and_clips_as_soundfile(write_tone, rate, channels):
    file = write_tone("a.ogg", seconds=6.3, rate=rate, channels=channels)
    ours, theirs = decode(file, AudioConfig(decoder="tfio")), decode(file, AudioConfig())
    assert ours.status == theirs.status
    np.testing.assert_allclose(ours.samples, theirs.samples, atol=1e-3)
    for position in (None, 0.0, 0.7):
        ours = decode_clip(file, AudioConfig(decoder="tfio"), position).samples
        np.testing.assert_allclose(ours, decode_clip(file, AudioConfig(), position).samples, atol=1e-3)
    for content in (b"", b"not audio at all", b"OggS" + bytes(100)):
        file.write_bytes(content)
        with pytest.raises(AudioError, match=f"^{file}: .*$"):
            decode(file, AudioConfig(decoder="tfio"))


class Lazy:
    """What tensorflow-io has beside another TensorFlow: it imports, and fails when its compiled part is first used."""

    def __getattr__(self, name):
        raise NotImplementedError("unable to open file: libtensorflow_io.so\ncaused by: undefined symbol")


@pytest.mark.parametrize("ops", [None, SimpleNamespace(core_ops=Lazy())])
def test_elsewhere_one_line_says_which_versions_are_needed(write_tone, monkeypatch, ops):
    monkeypatch.setitem(sys.modules, "tensorflow_io", ops)
    monkeypatch.setitem(sys.modules, "tensorflow_io.python.ops", ops)
    needed = "tensorflow 2.16.2, tensorflow-io 0.37.1, numpy 1.26 and .*constraints-tfio.txt.*Received: "
    told = "unable to open file: libtensorflow_io.so" if ops else ".+"
    with pytest.raises(ConfigError, match=f"{needed}{told}$"):
        decode(write_tone("a.ogg", seconds=1.0), AudioConfig(decoder="tfio"))
