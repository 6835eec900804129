"""The tensorflow-io decoder: `make test-tfio` runs the marked tests in the environment it needs."""

import sys

import numpy as np
import pytest
import soundfile

from keras_birds.audio.decode import decode, decode_clip
from keras_birds.config import AudioConfig
from keras_birds.errors import AudioError, ConfigError


@pytest.mark.tfio
def test_decodes_real_ogg_as_soundfile_does(animals_dir):
    for file in sorted((animals_dir / "train_audio").glob("*/*.ogg"))[::40]:
        expected, rate_hz = soundfile.read(file, dtype="float32")
        decoded = decode(file, rate_hz, "tfio")
        assert decoded.status == decode(file, rate_hz).status
        np.testing.assert_allclose(decoded.samples, expected, atol=1e-3)


@pytest.mark.tfio
@pytest.mark.parametrize(("rate", "channels"), [(32_000, 1), (44_100, 2), (22_050, 1)])
def test_rates_and_channels_as_soundfile(write_tone, rate, channels):
    file = write_tone("a.ogg", seconds=6.3, rate=rate, channels=channels)
    ours, theirs = decode(file, 32_000, "tfio"), decode(file, 32_000)
    np.testing.assert_allclose(ours.samples, theirs.samples, atol=1e-3)


@pytest.mark.tfio
def test_clips_as_soundfile(write_tone):
    file = write_tone("a.ogg", seconds=9.0)
    for position in (None, 0.0, 0.7):
        ours = decode_clip(file, AudioConfig(decoder="tfio"), position).samples
        np.testing.assert_allclose(ours, decode_clip(file, AudioConfig(), position).samples, atol=1e-3)


@pytest.mark.tfio
@pytest.mark.parametrize("content", [b"", b"not audio at all", b"OggS" + bytes(100)])
def test_what_is_not_audio_gives_a_reason(tmp_path, content):
    file = tmp_path / "bad.ogg"
    file.write_bytes(content)
    with pytest.raises(AudioError) as caught:
        decode(file, 32_000, "tfio")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_elsewhere_one_line_says_which_versions_are_needed(write_tone, monkeypatch):
    # None in sys.modules makes the import fail in the tfio environment too.
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)
    file = write_tone("a.ogg", seconds=1.0)
    with pytest.raises(ConfigError) as caught:
        decode(file, 32_000, "tfio")
    message = str(caught.value)
    assert "\n" not in message
    for needed in ("tensorflow 2.16.2", "tensorflow-io 0.37.1", "numpy 1.26", "constraints-tfio.txt"):
        assert needed in message


def test_an_unsupported_tensorflow_gets_the_same_line(write_tone, tmp_path, monkeypatch):
    """tensorflow-io beside another TensorFlow imports, and fails when its compiled part is first used."""
    package = tmp_path / "tensorflow_io"
    (package / "python").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "python" / "__init__.py").touch()
    (package / "python" / "ops.py").write_text(
        "class Lazy:\n"
        "    def __getattr__(self, name):\n"
        "        raise NotImplementedError('unable to open file: libtensorflow_io.so\\ncaused by: undefined symbol')\n"
        "core_ops = Lazy()\n"
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorflow_io"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(
            ConfigError, match=r"tensorflow 2\.16\.2.*Received: unable to open file"
        ) as caught:
            decode(write_tone("a.ogg", seconds=1.0), 32_000, "tfio")
        assert "\n" not in str(caught.value)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "tensorflow_io"]:
            del sys.modules[name]
