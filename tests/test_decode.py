import math
import os
import struct

import numpy as np
import pytest
import soundfile
import soxr

from keras_birds.audio import ffmpeg
from keras_birds.audio.clips import center, crop_start, fill
from keras_birds.audio.decode import decode, decode_clip, probe
from keras_birds.audio.reader import MIN_SECONDS
from keras_birds.config import AudioConfig
from keras_birds.errors import AudioError

RATE = 32_000
FORMATS = ["wav", "flac", "ogg", "mp3"]
# What lossy coding may change in a tone of amplitude 0.5 with a little noise.
TOLERANCE = {"wav": 1e-4, "flac": 1e-4, "ogg": 0.1, "mp3": 0.1}


def tone(seconds, rate=RATE, frequency_hz=1000.0):
    return 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(seconds * rate)) / rate)


def noise(seconds, rate=RATE, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate)).astype(np.float32)


def failure(path, **kwargs):
    """The one-line error of a file that must not decode."""
    with pytest.raises(AudioError) as caught:
        decode(path, RATE, **kwargs)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return caught.value


@pytest.mark.parametrize("rate", [8_000, 22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("suffix", FORMATS)
def test_any_format_and_rate_gives_the_same_tone(tmp_path, suffix, rate):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(2.0, rate), rate)
    decoded = decode(path, RATE)
    assert (decoded.status, decoded.reason) == ("ok", "")
    assert decoded.samples.dtype == np.float32
    assert decoded.seconds_read == pytest.approx(2.0, abs=0.1)
    assert abs(len(decoded.samples) - 2 * RATE) <= 0.1 * RATE
    middle = decoded.samples[RATE // 2 : RATE]
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.06)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * RATE / len(middle) == pytest.approx(1000, abs=3)


@pytest.mark.parametrize("suffix", FORMATS)
def test_own_rate_gives_the_samples_as_written(tmp_path, suffix):
    samples = tone(1.5)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, samples, RATE)
    decoded = decode(path, RATE).samples
    np.testing.assert_allclose(decoded[: len(samples)], samples, atol=TOLERANCE[suffix])


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_averaged(tmp_path, channels):
    samples = np.stack([noise(1.0, seed=seed) for seed in range(channels)], axis=1)
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    np.testing.assert_allclose(decode(path, RATE).samples, samples.mean(axis=1), atol=1e-6)
    assert probe(path).channels == channels


def test_resampling_is_soxr_hq(tmp_path):
    samples = noise(1.0, 44_100)
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 44_100, subtype="FLOAT")
    np.testing.assert_allclose(
        decode(path, RATE).samples, soxr.resample(samples, 44_100, RATE, quality="HQ"), atol=1e-6
    )


def test_content_decides_not_the_name(tmp_path):
    path = tmp_path / "really-flac.ogg"
    soundfile.write(path, tone(1.0), RATE, format="FLAC")
    assert decode(path, RATE).status == "ok"
    raw = tmp_path / "really-wav.raw"
    soundfile.write(str(raw), tone(1.0), RATE, format="WAV")
    np.testing.assert_allclose(decode(raw, RATE).samples, tone(1.0), atol=1e-4)


def test_probe_tells_the_header(tmp_path):
    path = tmp_path / "ünïcode name.flac"
    soundfile.write(path, np.zeros((44_100 * 3, 2)), 44_100)
    info = probe(path)
    assert (info.seconds, info.sample_rate_hz, info.channels) == (3.0, 44_100, 2)


@pytest.mark.parametrize("rate", [22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_part_equals_that_part_of_the_whole(tmp_path, suffix, rate):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(9.0, rate), rate)
    whole = decode(path, RATE).samples
    for start_s, duration_s in ((0.0, 2.0), (1.23456, 3.0), (4.0, 1.0), (7.5, None), (0.0, None)):
        part = decode(path, RATE, start_s=start_s, duration_s=duration_s)
        start = round(start_s * RATE)
        expected = whole[start:] if duration_s is None else whole[start : start + round(duration_s * RATE)]
        assert part.status == "ok"
        assert part.seconds_read == pytest.approx(len(expected) / RATE)
        np.testing.assert_allclose(part.samples, expected, atol=2e-4)


def test_a_part_ends_with_the_recording(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(3.0), RATE)
    part = decode(path, RATE, start_s=2.0, duration_s=5.0)
    assert len(part.samples) == RATE
    assert part.seconds_expected == part.seconds_read == 1.0
    assert len(decode(path, RATE, start_s=10.0, duration_s=5.0).samples) == 0


@pytest.mark.parametrize(("start_s", "duration_s"), [(-1.0, None), (0.0, 0.0), (1.0, -2.0)])
def test_an_impossible_part_is_refused(write_tone, start_s, duration_s):
    with pytest.raises(ValueError, match="a part must"):
        decode(write_tone("a.wav", seconds=1), RATE, start_s=start_s, duration_s=duration_s)


@pytest.mark.parametrize("rate", [32_000, 44_100])
@pytest.mark.parametrize("suffix", FORMATS)
def test_decode_clip_is_the_crop_of_the_whole(tmp_path, suffix, rate):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(11.3, rate), rate)
    audio = AudioConfig()
    whole = decode(path, RATE).samples
    np.testing.assert_allclose(decode_clip(path, audio).samples, center(whole, audio.clip_samples), atol=2e-4)
    padded = np.pad(whole, 512)
    for position in (0.0, 0.31, 1.0):
        clip = decode_clip(path, audio, position, snap_samples=512, context_samples=512)
        start = crop_start(len(whole), audio.clip_samples, position, 512)
        assert clip.samples.shape == (audio.clip_samples + 1024,)
        np.testing.assert_allclose(clip.samples, padded[start : start + audio.clip_samples + 1024], atol=2e-4)


@pytest.mark.parametrize("suffix", FORMATS)
def test_decode_clip_repeats_a_short_recording(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(1.7), RATE)
    audio = AudioConfig()
    whole = decode(path, RATE).samples
    np.testing.assert_array_equal(decode_clip(path, audio, 0.4).samples, fill(whole, audio.clip_samples))
    with_context = decode_clip(path, audio, context_samples=100).samples
    np.testing.assert_array_equal(with_context, np.pad(fill(whole, audio.clip_samples), 100))


def test_missing_file(tmp_path):
    assert failure(tmp_path / "none.wav").status == "missing"


def test_folder(tmp_path):
    assert failure(tmp_path).status == "unreadable"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_no_permission(write_tone):
    path = write_tone("a.wav", seconds=1)
    path.chmod(0)
    assert failure(path).status == "unreadable"


@pytest.mark.parametrize("suffix", FORMATS)
def test_empty_file(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.touch()
    error = failure(path)
    assert error.status == "empty"
    assert "0 bytes" in error.reason


@pytest.mark.parametrize("suffix", [*FORMATS, "txt", "raw"])
def test_what_is_not_audio(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_text("<html>404 not found</html>\n" * 50)
    assert failure(path).status == "corrupt"


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_zero_length_audio(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.zeros(0), RATE)
    assert failure(path).status == "empty"


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_one_sample(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.full(1, 0.5), RATE)
    error = failure(path)
    assert error.status == "too short"
    assert "1 sample;" in error.reason
    with pytest.raises(AudioError):
        probe(path)


def test_the_least_length_decodes(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(MIN_SECONDS), RATE)
    assert decode(path, RATE).status == "ok"


def with_rate(path, rate_hz):
    """Puts another sample rate in a WAV header."""
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate_hz)
    path.write_bytes(content)


@pytest.mark.parametrize("rate_hz", [0, 1, 500])
def test_impossible_rate(write_tone, rate_hz):
    path = write_tone("a.wav", seconds=1)
    with_rate(path, rate_hz)
    error = failure(path)
    assert error.status == "corrupt"
    assert "Hz" in error.reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path, value):
    samples = noise(2.0)
    samples[1234] = value
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    error = failure(path)
    assert error.status == "corrupt"
    assert "NaN" in error.reason


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_silence_is_told(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.zeros(2 * RATE), RATE)
    decoded = decode(path, RATE)
    assert decoded.status == "silent"
    assert len(decoded.samples) == 2 * RATE
    assert decode_clip(path, AudioConfig()).status == "silent"


def truncate(path, keep=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_truncated_file_is_partial_and_keeps_what_decodes(tmp_path, suffix):
    samples = noise(10.0)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, samples, RATE)
    whole = decode(path, RATE).samples
    truncate(path)
    decoded = decode(path, RATE)
    assert decoded.status == "partial"
    assert decoded.reason.startswith("read ")
    assert 4.5 < decoded.seconds_read < 7
    # The last MP3 frame lacks its neighbour.
    kept = len(decoded.samples) - 2 * 1152
    np.testing.assert_allclose(decoded.samples[:kept], whole[:kept], atol=1e-3)
    assert decoded.samples.any()


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_clip_of_a_truncated_file_lies_in_what_is_there(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(10.0), RATE)
    truncate(path)
    decoded = decode(path, RATE)
    clip = decode_clip(path, AudioConfig())
    assert clip.status == "partial"
    np.testing.assert_allclose(clip.samples, center(decoded.samples, 5 * RATE), atol=2e-4)


def test_flac_damaged_in_the_middle_keeps_what_comes_before(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(10.0), RATE)
    whole = decode(path, RATE).samples
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + 40_000] = os.urandom(40_000)
    path.write_bytes(content)
    decoded = decode(path, RATE)
    assert decoded.status == "partial"
    assert decoded.seconds_read > 4
    np.testing.assert_array_equal(decoded.samples[: 4 * RATE], whole[: 4 * RATE])


def test_a_header_alone_is_not_a_recording(tmp_path):
    for suffix in FORMATS:
        path = tmp_path / f"a.{suffix}"
        soundfile.write(path, noise(5.0), RATE)
        path.write_bytes(path.read_bytes()[:60])
        assert failure(path).status in ("corrupt", "empty", "too short")


@pytest.mark.parametrize("size", [0x7FFF_FFDB, 0xFFFF_FFFF])
def test_wav_whose_recorder_never_wrote_the_size(tmp_path, size):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(2.0), RATE)
    content = bytearray(path.read_bytes())
    content[40:44] = struct.pack("<I", size)
    path.write_bytes(content)
    decoded = decode(path, RATE)
    assert decoded.status == "ok"
    assert decoded.seconds_read == 2.0


def test_m4a_without_ffmpeg_gives_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\x00\x00\x00\x20ftypM4A \x00\x00\x00\x00" + bytes(100))
    error = failure(path)
    assert error.status == "unreadable"
    assert "needs ffmpeg, which is not installed" in error.reason
    with pytest.raises(AudioError, match="needs ffmpeg"):
        probe(path)


def test_what_libsndfile_reads_never_needs_ffmpeg(tmp_path, monkeypatch, write_tone):
    monkeypatch.setenv("PATH", str(tmp_path))
    for suffix in FORMATS:
        assert decode(write_tone(f"a.{suffix}", seconds=1), RATE).status == "ok"


@pytest.mark.skipif(ffmpeg.shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.parametrize(
    ("suffix", "codec"), [("m4a", "aac"), ("aac", "aac"), ("wma", "wmav2"), ("mka", "flac")]
)
def test_ffmpeg_reads_what_libsndfile_cannot(write_tone, suffix, codec):
    wav = write_tone("a.wav", seconds=6, rate=44_100, channels=2)
    path = wav.with_suffix(f".{suffix}")
    ffmpeg.subprocess.run(["ffmpeg", "-loglevel", "error", "-i", wav, "-c:a", codec, path], check=True)
    decoded = decode(path, RATE)
    assert decoded.status == "ok"
    assert decoded.seconds_read == pytest.approx(6, abs=0.15)
    assert probe(path).sample_rate_hz == 44_100
    assert probe(path).channels == 2
    assert np.abs(decoded.samples[RATE : 2 * RATE]).max() == pytest.approx(0.52, abs=0.05)
    assert decode_clip(path, AudioConfig()).samples.shape == (5 * RATE,)
    part = decode(path, RATE, start_s=1.5, duration_s=2.0)
    np.testing.assert_array_equal(part.samples, decoded.samples[round(1.5 * RATE) :][: 2 * RATE])


@pytest.mark.skipif(ffmpeg.shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_ffmpeg_finds_no_audio(tmp_path):
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\x00\x00\x00\x20ftypM4A \x00\x00\x00\x00" + bytes(1000))
    assert failure(path).status == "corrupt"


def test_real_recordings_decode(animals_dir, soundscapes_dir):
    files = (
        sorted((animals_dir / "train_audio").glob("*/*.ogg"))[::40]
        + sorted(soundscapes_dir.glob("*.ogg"))[:2]
    )
    for file in files:
        info, decoded = probe(file), decode(file, RATE)
        assert decoded.status in ("ok", "silent")
        assert decoded.seconds_read == info.seconds
        assert not math.isnan(decoded.seconds_expected)
        expected = soundfile.read(file, dtype="float32")[0]
        np.testing.assert_array_equal(decoded.samples, expected)
