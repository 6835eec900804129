import math
import os
import shutil
import struct
import subprocess
import tracemalloc

import fsspec
import numpy as np
import pytest
import soundfile
import soxr

from keras_birds.audio import ogg
from keras_birds.audio.clips import center, crop_start, fill
from keras_birds.audio.decode import decode, decode_clip, probe
from keras_birds.audio.reader import MIN_SECONDS, Reader
from keras_birds.audio.stream import open_stream
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


def needs(*programs):
    lacking = [x for x in programs if shutil.which(x) is None]
    return pytest.mark.skipif(bool(lacking), reason=f"needs {', '.join(lacking)}")


def run(*command, stdin=None):
    return subprocess.run([str(x) for x in command], input=stdin, check=True, capture_output=True).stdout


def ffmpeg(source, *arguments):
    return run("ffmpeg", "-loglevel", "error", "-y", "-i", source, *arguments)


def failure(path, **kwargs):
    """The one-line error of a file that must not decode."""
    with pytest.raises(AudioError) as caught:
        decode(path, RATE, **kwargs)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return caught.value


@pytest.mark.parametrize(
    ("suffix", "rate"),
    [("wav", 8_000), ("flac", 22_050), ("ogg", 44_100), ("mp3", 48_000), *((x, RATE) for x in FORMATS)],
)
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
    if rate == RATE:
        np.testing.assert_allclose(decoded.samples[: 2 * RATE], tone(2.0), atol=TOLERANCE[suffix])
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * RATE / len(middle) == pytest.approx(1000, abs=3)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_averaged(tmp_path, channels):
    samples = np.stack([noise(1.0, seed=seed) for seed in range(channels)], axis=1)
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    mean = samples.mean(axis=1)
    np.testing.assert_allclose(decode(path, RATE).samples, mean, atol=1e-6)
    assert probe(path).channels == channels
    resampled = soxr.resample(mean, RATE, 44_100, quality="HQ")
    np.testing.assert_allclose(decode(path, 44_100).samples, resampled, atol=1e-6)


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


@pytest.mark.parametrize("rate", [22_050, 32_000, 48_000])
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


def test_no_file(tmp_path):
    assert failure(tmp_path / "none.wav").status == "missing"
    assert failure(tmp_path).status == "unreadable"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_no_permission(write_tone):
    path = write_tone("a.wav", seconds=1)
    path.chmod(0)
    assert failure(path).status == "unreadable"


def test_empty_file(tmp_path):
    path = tmp_path / "a.wav"
    path.touch()
    error = failure(path)
    assert error.status == "empty"
    assert "0 bytes" in error.reason


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


def test_what_libsndfile_reads_never_needs_ffmpeg(tmp_path, monkeypatch, write_tone):
    monkeypatch.setenv("PATH", str(tmp_path))
    for suffix in FORMATS:
        assert decode(write_tone(f"a.{suffix}", seconds=1), RATE).status == "ok"


# What libsndfile calls the whole and isn't. A recording that is `ok` was heard to its end.


def heard(path):
    """Status, seconds rounded, and reason, streamed as `predict` and `data check` do."""
    with open_stream(path, RATE) as stream:
        samples = sum(len(x) for x in stream.blocks)
    assert samples == pytest.approx(stream.seconds_read * RATE, abs=RATE / 100)
    return stream.status, round(stream.seconds_read, 1), stream.reason


def clip_at(path, position):
    return decode_clip(path, AudioConfig(clip_s=1.0), position).samples


@pytest.fixture(scope="module")
def loud_then_quiet(tmp_path_factory):
    """12 s whose first second needs many bits and the rest few, at 44.1 kHz; and the other way round."""
    folder = tmp_path_factory.mktemp("mp3")
    samples = np.concatenate([noise(2, 44_100) * 5, tone(10, 44_100) / 500])
    soundfile.write(folder / "loud.wav", samples, 44_100)
    soundfile.write(folder / "quiet.wav", samples[::-1], 44_100)
    return folder


LAME = {
    "constant": ("-b", "128"),
    "variable": ("-V", "4"),
    "no table": ("-t", "-V", "4"),
    "constant, no table": ("-t", "-b", "64"),
    "8 kHz": ("--resample", "8", "-V", "4"),
    "16 kHz": ("--resample", "16", "--abr", "40"),
}


@needs("lame")
@pytest.mark.parametrize("options", LAME.values(), ids=LAME)
@pytest.mark.parametrize("name", ["loud", "quiet"])
def test_an_mp3_is_heard_to_its_end_and_a_cut_one_is_told(loud_then_quiet, tmp_path, name, options):
    path = tmp_path / "a.mp3"
    run("lame", "--quiet", *options, loud_then_quiet / f"{name}.wav", path)
    whole = path.read_bytes()
    tags = b"ID3\3\0\0\0\0\x10\0" + bytes(2048), b"TAG" + bytes(125)
    for content in (whole, tags[0] + whole + tags[1], b"\n junk \xff\xfb" * 99 + whole):
        path.write_bytes(content)
        status, seconds, reason = heard(path)
        assert (status, reason) == ("ok", "")
        assert seconds == pytest.approx(12, abs=0.11)
    assert len(clip_at(path, 1.0)) == RATE
    for keep in (0.9, 0.999):
        path.write_bytes(whole[: int(keep * len(whole))])
        status, seconds, reason = heard(path)
        assert status == "partial"
        assert reason.startswith("read ")


@needs("lame")
def test_an_mp3_written_to_a_pipe_has_no_length_and_is_read_whole(loud_then_quiet, tmp_path):
    for name in ("loud", "quiet"):
        path = tmp_path / f"{name}.mp3"
        path.write_bytes(
            run("lame", "--quiet", "-V", "4", "-", "-", stdin=(loud_then_quiet / f"{name}.wav").read_bytes())
        )
        assert heard(path)[:2] == ("ok", 12.0)
        assert probe(path).seconds == pytest.approx(12, abs=0.1)


@needs("lame")
def test_mp3s_that_follow_each_other_are_all_heard(loud_then_quiet, tmp_path):
    parts = []
    for options in (("-V", "4"), ("-b", "64"), ("--resample", "22.05", "-b", "32"), ("-a", "-b", "96")):
        run("lame", "--quiet", *options, loud_then_quiet / "loud.wav", tmp_path / "part.mp3")
        parts.append((tmp_path / "part.mp3").read_bytes())
    (tmp_path / "a.mp3").write_bytes(b"".join(parts))
    status, seconds, _ = heard(tmp_path / "a.mp3")
    assert status == "ok"
    assert seconds == pytest.approx(48, abs=0.3)


@needs("lame")
def test_an_mp3_damaged_in_its_middle_is_partial(loud_then_quiet, tmp_path):
    for options in (("-b", "128"), ("-t", "-V", "4")):
        run("lame", "--quiet", *options, loud_then_quiet / "loud.wav", tmp_path / "a.mp3")
        content = bytearray((tmp_path / "a.mp3").read_bytes())
        content[20_000:30_000] = bytes(10_000)
        (tmp_path / "a.mp3").write_bytes(content)
        assert heard(tmp_path / "a.mp3")[0] == "partial"


def encode(folder, name, samples, rate, encoder):
    soundfile.write(folder / f"{name}.wav", samples, rate)
    out = folder / f"{name}.{encoder}"
    command = {"ogg": ("oggenc", "-Q", "--serial", "7", "-o"), "opus": ("opusenc", "--quiet")}[encoder]
    run(*command, *((out, folder / f"{name}.wav") if encoder == "ogg" else (folder / f"{name}.wav", out)))
    return out.read_bytes()


@needs("oggenc", "opusenc")
@pytest.mark.parametrize("encoder", ["ogg", "opus"])
def test_every_stream_of_an_ogg_is_heard(tmp_path, monkeypatch, encoder):
    left_only = np.stack([tone(3, 44_100, 3000.0), np.zeros(3 * 44_100)], axis=1)
    parts = [
        encode(tmp_path, "a", tone(2), RATE, encoder),
        encode(tmp_path, "b", left_only, 44_100, encoder),
        encode(tmp_path, "c", tone(2, 16_000, 5000.0), 16_000, encoder),
    ]
    path = tmp_path / "all.ogg"
    path.write_bytes(b"".join(parts))
    assert heard(path) == ("ok", 7.0, "")
    if encoder == "opus":  # of streams with numbers of their own, the ends tell
        monkeypatch.setattr(ogg, "_MAX_WALKED_BYTES", 0)
    fsspec.filesystem("memory").pipe("/all.ogg", path.read_bytes())
    assert heard("memory://all.ogg") == ("ok", 7.0, "")
    samples = decode(path, RATE).samples
    for second, frequency_hz, peak in ((1, 1000, 0.5), (3.5, 3000, 0.25), (6, 5000, 0.5)):
        part = samples[int(second * RATE) :][: RATE // 2]
        assert np.argmax(np.abs(np.fft.rfft(part))) * 2 == pytest.approx(frequency_hz, abs=4)
        assert np.abs(part).max() == pytest.approx(peak, abs=0.06)
    with Reader(path) as reader:
        rate = reader.rate_hz
        found = reader.segment(round(4.5 * rate), round(6.5 * rate))
        whole = np.concatenate(list(reader.blocks()))
    np.testing.assert_allclose(found, whole[round(4.5 * rate) : round(6.5 * rate)], atol=1e-3)
    np.testing.assert_allclose(clip_at(path, 1.0), samples[-RATE:], atol=1e-3)
    path.write_bytes(parts[0][:-2000] + parts[1])
    status, seconds, _ = heard(path)
    assert (status, seconds >= 3) == ("partial", True)
    path.write_bytes(parts[1] + parts[0])
    with open_stream(path, RATE, channel=2) as stream:
        second = np.concatenate(list(stream.blocks))[:, 0]
    assert np.abs(second[: 2 * RATE]).max() < 0.05
    assert np.abs(second[4 * RATE :]).max() == pytest.approx(0.5, abs=0.05)


def wav(samples, riff, data, after=b"", rate=RATE):
    header = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return header + struct.pack("<4sI", b"data", data) + (samples * 32767).astype("<i2").tobytes() + after


WAMD = struct.pack("<4sI", b"wamd", 2000) + bytes(range(250)) * 8
SIZES = {
    "lost power": (0, 0, b"", "ok", 2.0),
    "lost power, RIFF 36": (36, 0, b"", "ok", 2.0),
    "lost power, RIFF right": (128_036, 0, b"", "ok", 2.0),
    "never knew": (0xFFFF_FFFF, 0xFFFF_FFFF, b"", "ok", 2.0),
    "sox on a pipe": (0x7FFF_F024, 0x7FFF_F000, b"", "ok", 2.0),
    "lost power later": (64_036, 64_000, b"", "ok", 2.0),
    "chunks behind": (130_044, 128_000, WAMD, "ok", 2.0),
    "counts its header": (128_080, 128_044, b"", "ok", 2.0),
    "cut off": (256_036, 256_000, b"", "partial", 2.0),
}


@pytest.mark.parametrize(("riff", "data", "after", "status", "seconds"), SIZES.values(), ids=SIZES)
def test_a_wav_is_read_to_its_end_whatever_its_sizes_say(tmp_path, riff, data, after, status, seconds):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(tone(2), riff, data, after))
    decoded = decode(path, RATE)
    assert (decoded.status, decoded.seconds_read) == (status, seconds)
    np.testing.assert_allclose(decoded.samples, tone(2), atol=1e-4)
    np.testing.assert_allclose(clip_at(path, 1.0), tone(2)[-RATE:], atol=1e-4)
    path.write_bytes(wav(tone(0), 0, 0, WAMD))
    assert failure(path).status == "empty"


@needs("ffmpeg")
@pytest.mark.parametrize("codec", ["libmp3lame", "adpcm_ima_wav", "adpcm_ms"])
def test_a_wav_of_other_encodings_is_read_to_its_end_without_a_size(loud_then_quiet, tmp_path, codec):
    path = tmp_path / "a.wav"
    ffmpeg(loud_then_quiet / "loud.wav", "-c:a", codec, "-q:a", "4", path)
    assert heard(path)[:2] == ("ok", 12.0)
    content = path.read_bytes()
    place = content.index(b"data") + 4
    path.write_bytes(content[:place] + bytes(4) + content[place + 4 :])
    assert heard(path)[:2] == ("ok", 12.0)
    path.write_bytes(content[: len(content) // 2])
    assert heard(path)[0] == "partial"


@needs("sox")
@pytest.mark.parametrize("form", ["wav", "aiff"])
def test_what_sox_writes_to_a_pipe_is_whole(tmp_path, form):
    soundfile.write(tmp_path / "a.wav", noise(2), RATE)
    (tmp_path / "b").write_bytes(run("sox", tmp_path / "a.wav", "-t", form, "-"))
    assert heard(tmp_path / "b") == ("ok", 2.0, "")


def test_a_wav_past_4_gib_whose_size_wrapped_around(tmp_path):
    path, more, rate = tmp_path / "a.wav", 1 << 20, 500_000
    with path.open("wb") as file:
        file.write(wav(tone(0), more + 36, more, rate=rate))
        file.truncate(44 + (1 << 32) + more)  # sparse
        file.seek(-2000, os.SEEK_END)
        file.write(b"\1\2" * 1000)
        file.write(WAMD)
    with Reader(path) as reader:
        assert reader.frames == ((1 << 32) + more) // 2
        assert reader.segment(reader.frames - 1000, reader.frames).all()
        assert reader.problem == ""


@pytest.mark.parametrize(
    ("form", "subtype"), [("AIFF", "PCM_16"), ("AU", "PCM_16"), ("W64", "PCM_24"), ("RF64", "FLOAT")]
)
def test_other_containers_that_are_cut_off(tmp_path, form, subtype):
    path = tmp_path / "a"
    soundfile.write(path, noise(5), RATE, format=form, subtype=subtype)
    assert heard(path) == ("ok", 5.0, "")
    truncate(path)
    assert heard(path) == ("partial", 3.0, "read 3.0 of 5.0 s")


@needs("flac")
def test_a_flac_of_unknown_length_is_heard_to_its_last_block(tmp_path):
    raw = (noise(3) * 32767).astype("<i2").tobytes()
    options = (
        "-s --force-raw-format --endian little --sign signed --channels 1 --bps 16 --sample-rate 32000 -c -"
    )
    path = tmp_path / "a.flac"
    path.write_bytes(run("flac", *options.split(), stdin=raw))
    np.testing.assert_allclose(decode(path, RATE).samples * 32768, np.frombuffer(raw, "<i2"), atol=0.5)
    np.testing.assert_allclose(clip_at(path, 1.0) * 32768, np.frombuffer(raw, "<i2")[-RATE:], atol=0.5)
    truncate(path)
    status, seconds, reason = heard(path)
    assert (status, reason) == ("partial", f"read {seconds} s: the file is cut off")


REFUSED = {
    "Ogg FLAC": ("ogg", ("-c:a", "flac")),
    "G.722": ("wav", ("-ar", "16000", "-c:a", "g722")),
    "G.726": ("wav", ("-ar", "8000", "-c:a", "g726")),
    "WavPack": ("wv", ()),
    "Matroska": ("mkv", ("-c:a", "flac")),
    "QuickTime": ("mov", ("-c:a", "pcm_s16le", "-movflags", "faststart")),
    "AAC": ("aac", ()),
    "M4A": ("m4a", ("-movflags", "faststart")),
    "WMA": ("wma", ("-c:a", "wmav2")),
}


@needs("ffmpeg")
@pytest.mark.parametrize(("suffix", "options"), REFUSED.values(), ids=REFUSED)
def test_what_libsndfile_refuses_goes_to_ffmpeg_by_its_content(tmp_path, monkeypatch, suffix, options):
    soundfile.write(tmp_path / "a.wav", noise(6), RATE)
    path = tmp_path / "any.name"
    ffmpeg(tmp_path / "a.wav", *options, tmp_path / f"b.{suffix}")
    shutil.copy(tmp_path / f"b.{suffix}", path)
    status, seconds, _ = heard(path)
    assert (status, seconds) == ("ok", pytest.approx(6, abs=0.11))
    whole, rate = decode(path, RATE).samples, probe(path).sample_rate_hz
    np.testing.assert_allclose(decode_clip(path, AudioConfig()).samples, center(whole, 5 * RATE), atol=2e-4)
    with Reader(path) as reader:
        native = np.concatenate(
            [reader.segment(k * rate, (k + 2) * rate)[: (k < 3) * rate + rate] for k in (0, 2, 3)]
        )
        np.testing.assert_array_equal(native[: 2 * rate], next(reader.blocks())[: 2 * rate])
    truncate(path)
    assert heard(path)[0] == "partial"
    monkeypatch.setenv("PATH", str(tmp_path))
    error = failure(path)
    assert error.status == "unreadable"
    assert "needs ffmpeg, which is not installed" in error.reason


@needs("ffmpeg")
def test_what_is_no_sound_is_told_by_either(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", noise(1), RATE)
    ffmpeg(tmp_path / "a.wav", "-lavfi", "showspectrumpic=s=64x64", tmp_path / "b.png")
    path = tmp_path / "c.wav"
    for content in (
        b"<html>404 not found</html>\n" * 50,
        bytes(5000),
        noise(1).tobytes(),
        (tmp_path / "b.png").read_bytes(),
    ):
        path.write_bytes(content)
        error = failure(path)
        assert error.status == "corrupt"
        assert "is not audio" in error.reason
    monkeypatch.setenv("PATH", str(tmp_path))
    path.write_text("<html>404 not found</html>")
    assert failure(path).reason == "is not audio"


def test_channels_that_cancel_each_other_out_are_told(tmp_path):
    path, sound, other = tmp_path / "a.wav", noise(2), noise(2, seed=1)
    reason = "its channels cancel each other out in the mean: choose one with --channel"
    nearly = "its channels nearly cancel each other out (26 dB): choose one with --channel"
    for pair, expected in (
        ((sound, -sound), ("silent", reason)),
        (
            (sound, -0.9 * sound),
            ("partial", nearly),
        ),
        ((sound, -0.7 * sound), ("ok", "")),
        ((sound, other), ("ok", "")),
        ((sound, 0 * sound), ("ok", "")),
        ((0 * sound, 0 * sound), ("silent", "all samples are zero")),
    ):
        soundfile.write(path, np.stack(pair, axis=1), RATE, subtype="FLOAT")
        status, _, told = heard(path)
        assert (status, told) == expected
        with open_stream(path, RATE, channel=1) as stream:
            assert sum(len(x) for x in stream.blocks) == len(sound)
        assert stream.status == ("ok" if pair[0].any() else "silent")


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_crop_of_a_long_recording_takes_memory_for_the_crop_only(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for _ in range(20):
            file.write(noise(30))
    tracemalloc.start()
    try:
        decode_clip(path, AudioConfig(), 0.7)
        heard(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12e6  # the whole is 77 MB


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
