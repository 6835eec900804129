"""The tensorflow-io decoder: `make test-tfio` runs the marked tests in the environment it needs."""

import sys

import numpy as np
import pytest

from keras_birds.audio.decode import decode, decode_clip
from keras_birds.config import AudioConfig
from keras_birds.errors import AudioError, ConfigError


@pytest.mark.tfio
@pytest.mark.parametrize(("rate", "channels"), [(32_000, 1), (44_100, 2), (22_050, 1)])
def test_whole_recordings_and_clips_as_soundfile(write_tone, rate, channels):
    file = write_tone("a.ogg", seconds=6.3, rate=rate, channels=channels)
    ours, theirs = decode(file, 32_000, "tfio"), decode(file, 32_000)
    assert ours.status == theirs.status
    np.testing.assert_allclose(ours.samples, theirs.samples, atol=1e-3)
    for position in (None, 0.0, 0.7):
        ours = decode_clip(file, AudioConfig(decoder="tfio"), position).samples
        np.testing.assert_allclose(ours, decode_clip(file, AudioConfig(), position).samples, atol=1e-3)


@pytest.mark.tfio
@pytest.mark.parametrize("content", [b"", b"not audio at all", b"OggS" + bytes(100)])
def test_what_is_not_audio_gives_a_reason(tmp_path, content):
    file = tmp_path / "bad.ogg"
    file.write_bytes(content)
    with pytest.raises(AudioError, match=f"^{file}: .*$"):
        decode(file, 32_000, "tfio")


LAZY_OPS = """
class Lazy:
    def __getattr__(self, name):
        raise NotImplementedError('unable to open file: libtensorflow_io.so\\ncaused by: undefined symbol')
core_ops = Lazy()
"""


def test_elsewhere_one_line_says_which_versions_are_needed(write_tone, tmp_path, monkeypatch):
    file = write_tone("a.ogg", seconds=1.0)
    needed = "tensorflow 2.16.2, tensorflow-io 0.37.1, numpy 1.26, .*constraints-tfio.txt.*Received: "
    # None in sys.modules makes the import fail in the tfio environment too.
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)
    with pytest.raises(ConfigError, match=f"{needed}.*$"):
        decode(file, 32_000, "tfio")
    # Beside another TensorFlow it imports, and fails when its compiled part is first used.
    package = tmp_path / "tensorflow_io" / "python"
    package.mkdir(parents=True)
    (package / "ops.py").write_text(LAZY_OPS)
    for name in [x for x in sys.modules if x.partition(".")[0] == "tensorflow_io"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=f"{needed}unable to open file: libtensorflow_io.so$"):
        decode(file, 32_000, "tfio")
    for name in ("tensorflow_io", "tensorflow_io.python", "tensorflow_io.python.ops"):
        monkeypatch.delitem(sys.modules, name)
