import re
import shutil
import struct
import subprocess
import tempfile
import tracemalloc
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soxr
from sounds import RATE_HZ, encoded, noise, tone

from keras_birds.audio import ogg
from keras_birds.audio.clips import center, crop_start, fill
from keras_birds.audio.decode import decode, decode_clip, header_seconds, read_part
from keras_birds.audio.reader import MIN_SECONDS, Reader
from keras_birds.audio.stream import open_stream
from keras_birds.config import AudioConfig
from keras_birds.errors import AudioError

AUDIO, HIGH = AudioConfig(), AudioConfig(sample_rate_hz=44_100)
FORMATS = ["wav", "flac", "ogg", "mp3"]


def made(command, samples, rate_hz=RATE_HZ):
    """What a program makes of sound, from `a.wav` to `b` of any suffix or to its output."""
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"needs {command.split()[0]}")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.wav").write_bytes(encoded(samples, rate_hz=rate_hz))
        done = subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
        return done.stdout or next(Path(folder).glob("b*")).read_bytes()


def failure(path):
    """Status and one-line reason of a file that must not decode."""
    with pytest.raises(AudioError, match=r"\A[^\n]*\Z") as caught:
        decode(path, AUDIO)
    error = caught.value
    assert str(error) == f"{path}: {error.reason}"
    return f"{error.status}: {error.reason}"


def heard(path):
    """Status, seconds rounded, and reason, streamed as `predict` and `data check` do."""
    with open_stream(path, AUDIO) as stream:
        samples = sum(len(x) for x in stream.blocks)
    assert samples == pytest.approx(stream.seconds_read * RATE_HZ, abs=RATE_HZ / 100)
    return stream.status, round(stream.seconds_read, 1), stream.reason


def clip_at(path, position):
    return decode_clip(path, AudioConfig(clip_s=1.0), position).samples


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "b.ogg of FLAC", "b.raw of WAV"])
def test_the_content_decides_how_a_file_is_read_and_silence_is_told(tmp_path, monkeypatch, name):
    monkeypatch.setenv("PATH", "")  # none of these needs ffmpeg
    name, _, form = name.partition(" of ")
    path, form = tmp_path / name, form or name[2:]
    path.write_bytes(encoded(tone(2), form))
    decoded = decode(path, AUDIO)
    assert (decoded.status, decoded.reason, decoded.samples.dtype) == ("ok", "", np.float32)
    assert len(decoded.samples) == pytest.approx(2 * RATE_HZ, abs=0.1 * RATE_HZ)
    atol = 0.1 if form in ("ogg", "mp3") else 1e-4
    np.testing.assert_allclose(decoded.samples[: 2 * RATE_HZ], tone(2), atol=atol)
    path.write_bytes(encoded(np.zeros(6 * RATE_HZ), form))
    assert heard(path) == ("silent", pytest.approx(6, abs=0.1), "all samples are zero")
    assert decode_clip(path, AUDIO).status == "silent"


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_averaged_and_parts_are_what_lies_there(tmp_path, channels):
    samples = np.stack([noise(1.0, seed=seed) for seed in range(channels)], axis=1)
    path = tmp_path / "ünïcode name.wav"
    path.write_bytes(encoded(samples, subtype="FLOAT"))
    mean = samples.mean(axis=1)
    assert header_seconds(path) == 1.0
    np.testing.assert_allclose(decode(path, AUDIO).samples, mean, atol=1e-6)
    resampled = soxr.resample(mean, RATE_HZ, 44_100, quality="HQ")
    np.testing.assert_allclose(decode(path, HIGH).samples, resampled, atol=1e-6)
    for begin_s, end_s in ((0.25, 0.5), (0.75, 1.25), (1.25, 1.5)):
        part = mean[int(begin_s * RATE_HZ) : int(end_s * RATE_HZ)]
        np.testing.assert_allclose(read_part(path, begin_s, end_s, AUDIO), part, atol=1e-7)
        resampled = soxr.resample(part, RATE_HZ, 44_100, quality="HQ") if len(part) else part
        np.testing.assert_allclose(read_part(path, begin_s, end_s, HIGH), resampled, atol=1e-6)


@pytest.mark.parametrize("rate", [22_050, 32_000, 48_000])
@pytest.mark.parametrize("form", FORMATS)
def test_decode_clip_is_the_crop_of_the_whole(tmp_path, form, rate):
    path, n = tmp_path / "a", AUDIO.clip_samples
    path.write_bytes(encoded(noise(11.3001, rate), form, rate_hz=rate))
    whole = decode(path, AUDIO).samples
    np.testing.assert_allclose(decode_clip(path, AUDIO).samples, center(whole, n), atol=2e-4)
    for position in (0.0, 0.31, 1.0):
        clip = decode_clip(path, AUDIO, position, snap_samples=512, context_samples=512)
        start = crop_start(len(whole), n, position, 512)
        np.testing.assert_allclose(clip.samples, np.pad(whole, 512)[start : start + n + 1024], atol=2e-4)
    path.write_bytes(encoded(noise(1.7, rate), form, rate_hz=rate))  # shorter than a clip: repeated
    filled = fill(decode(path, AUDIO).samples, n)
    np.testing.assert_array_equal(decode_clip(path, AUDIO, 0.4).samples, filled)
    np.testing.assert_array_equal(decode_clip(path, AUDIO, context_samples=100).samples, np.pad(filled, 100))


TONE = encoded(tone(1))
NOT_FINITE = [encoded([0.1] * 9999 + [x], subtype="FLOAT") for x in (np.nan, np.inf, -np.inf)]
HEADS = {x: encoded(noise(5), x)[:60] for x in FORMATS}
NO_SOUND = [
    (b"", "empty: is empty (0 bytes)"),
    (encoded(np.zeros(0)), "empty: holds no samples"),
    (encoded(np.full(1, 0.5)), "too short: holds 1 sample; at least 0.05 s is"),
    (TONE[:24] + struct.pack("<I", 999) + TONE[28:], "corrupt: its header says 999 Hz; at least 1000 Hz is"),
    *((x, "corrupt: holds NaN") for x in NOT_FINITE),
    (HEADS["wav"], "too short: holds 8 samples"),
    (b"<html>404 not found</html>", "corrupt: is not audio"),
]
LACKS = "needs ffmpeg, which is not installed: install it or convert the file to FLAC"
FOR_FFMPEG = [
    (TONE[:24] + bytes(4) + TONE[28:], "its header is invalid: 0 Hz or no channels", ", or "),
    (HEADS["flac"], r"is damaged \(.+\)", ", or "),
    (HEADS["ogg"], r"is damaged \(.+\)", ", or "),
    (HEADS["mp3"], "holds no audio that decodes", ", or "),
    (bytes(5000), "is not audio, or too damaged", "libsndfile doesn't know its format: it "),
]


@pytest.mark.parametrize(("content", "told"), NO_SOUND, ids=range(len(NO_SOUND)))
def test_what_holds_no_sound_is_told(tmp_path, monkeypatch, content, told):
    monkeypatch.setenv("PATH", "")
    path = tmp_path / "a"
    assert failure(path) == "missing: no such file"
    assert failure(tmp_path) == "unreadable: is a folder"
    path.write_bytes(encoded(noise(MIN_SECONDS)))
    assert decode(path, AUDIO).status == "ok"
    path.write_bytes(content)
    assert failure(path).startswith(told)


@pytest.mark.parametrize(("content", "reason", "without"), FOR_FFMPEG, ids=range(len(FOR_FFMPEG)))
def test_what_neither_libsndfile_nor_ffmpeg_reads_is_told(tmp_path, monkeypatch, content, reason, without):
    path = tmp_path / "a"
    path.write_bytes(content)
    if shutil.which("ffmpeg"):
        assert re.match(rf"corrupt: {reason} \(ffmpeg: .+\)$", failure(path))
    monkeypatch.setenv("PATH", "")
    before = reason if without == ", or " else ""
    assert re.match(f"unreadable: {before}{without}{LACKS}$", failure(path))


def cut(content):
    return content[: int(0.6 * len(content))]


def randomized(content):
    half = len(content) // 2
    return content[:half] + np.random.default_rng(0).bytes(40_000) + content[half + 40_000 :]


DAMAGED = [*((x, cut) for x in (*FORMATS, "aiff", "au", "w64", "rf64")), ("flac", randomized)]


@pytest.mark.parametrize(("form", "damage"), DAMAGED)
def test_a_damaged_file_is_partial_and_keeps_what_decodes(tmp_path, form, damage):
    path, content = tmp_path / "a", encoded(noise(10), form)
    path.write_bytes(content)
    whole = decode(path, AUDIO).samples
    path.write_bytes(damage(content))
    decoded = decode(path, AUDIO)
    assert (decoded.status, decoded.reason[:5]) == ("partial", "read ")
    assert decoded.reason == "read 6.0 of 10.0 s" or form in FORMATS
    assert 4.5 < len(decoded.samples) / RATE_HZ < 7
    kept = len(decoded.samples) - 2 * 1152  # the last MP3 frame lacks its neighbour
    np.testing.assert_allclose(decoded.samples[:kept], whole[:kept], atol=1e-3)
    clip = decode_clip(path, AUDIO)
    assert clip.status == "partial"
    if damage is cut:
        np.testing.assert_allclose(clip.samples, center(decoded.samples, 5 * RATE_HZ), atol=2e-4)
        path.write_bytes(content[: int(0.97 * len(content))])
        assert decode(path, AUDIO).reason == "read 9.7 of 10.0 s" or form in FORMATS


# What libsndfile calls the whole and isn't. A recording that is `ok` was heard to its end.
# 12 s at 44.1 kHz whose first second needs many bits and the rest few.
LOUD_THEN_QUIET = np.concatenate([noise(2, 44_100) * 5, tone(10, 44_100) / 500])
LAME = ["-b 128", "-V 4", "-t -V 4", "-t -b 64", "--resample 8 -V 4", "--resample 16 --abr 40"]


@pytest.mark.parametrize("options", [*(f"{x} a.wav b" for x in LAME), "-V 4 a.wav -"])
@pytest.mark.parametrize("step", [1, -1], ids=["loud", "quiet"])
def test_an_mp3_is_heard_to_its_end_and_a_cut_one_is_told(tmp_path, step, options):
    path, whole = tmp_path / "a.mp3", made(f"lame --quiet {options}", LOUD_THEN_QUIET[::step], 44_100)
    tags = b"ID3\3\0\0\0\0\x10\0" + bytes(2048), b"TAG" + bytes(125)
    for content in (whole, tags[0] + whole + tags[1], b"\n junk \xff\xfb" * 99 + whole):
        path.write_bytes(content)
        assert heard(path) == ("ok", pytest.approx(12, abs=0.11), "")
        assert header_seconds(path) == pytest.approx(12, abs=0.11)
    assert len(clip_at(path, 1.0)) == RATE_HZ
    for keep in (0.9, 0.999):
        path.write_bytes(whole[: int(keep * len(whole))])
        status, _, reason = heard(path)
        assert (status, reason[:5]) == ("partial", "read ")


def test_mp3s_that_follow_each_other_are_all_heard_and_damaged_ones_told(tmp_path):
    path = tmp_path / "a.mp3"
    options = ("-V 4", "-b 64", "--resample 22.05 -b 32", "-a -b 96", "-b 128", "-t -V 4")
    parts = [made(f"lame --quiet {x} a.wav b", LOUD_THEN_QUIET, 44_100) for x in options]
    path.write_bytes(b"".join(parts[:4]))
    assert heard(path)[:2] == ("ok", pytest.approx(48, abs=0.3))
    for content in parts[4:]:
        path.write_bytes(content[:20_000] + bytes(10_000) + content[30_000:])
        assert heard(path)[0] == "partial"


@pytest.mark.parametrize("command", ["oggenc -Q --serial 7 -o b a.wav", "opusenc --quiet a.wav b"])
def test_every_stream_of_an_ogg_is_heard(tmp_path, monkeypatch, command):
    left_only = np.stack([tone(3, 44_100, 3000.0), np.zeros(3 * 44_100)], axis=1)
    sounds = ((tone(2), RATE_HZ), (left_only, 44_100), (tone(2, 16_000, 5000.0), 16_000))
    path, parts = tmp_path / "all.ogg", [made(command, *x) for x in sounds]
    path.write_bytes(b"".join(parts))
    assert heard(path) == ("ok", 7.0, "")
    if command.startswith("opus"):  # of streams with numbers of their own, the ends tell
        monkeypatch.setattr(ogg, "_MAX_WALKED_BYTES", 0)
    fsspec.filesystem("memory").pipe("/all.ogg", path.read_bytes())
    assert heard("memory://all.ogg") == ("ok", 7.0, "")
    samples = decode(path, AUDIO).samples
    for second, frequency_hz, peak in ((1, 1000, 0.5), (3.5, 3000, 0.25), (6, 5000, 0.5)):
        part = samples[int(second * RATE_HZ) :][: RATE_HZ // 2]
        assert np.argmax(np.abs(np.fft.rfft(part))) * 2 == pytest.approx(frequency_hz, abs=4)
        assert np.abs(part).max() == pytest.approx(peak, abs=0.06)
    with Reader(path) as reader:
        first, last = round(4.5 * reader.rate_hz), round(6.5 * reader.rate_hz)
        found, whole = reader.segment(first, last), np.concatenate(list(reader.blocks()))
    np.testing.assert_allclose(found, whole[first:last], atol=1e-3)
    np.testing.assert_allclose(clip_at(path, 1.0), samples[-RATE_HZ:], atol=1e-3)
    path.write_bytes(parts[0][:-2000] + parts[1])
    status, seconds, _ = heard(path)
    assert (status, seconds >= 3) == ("partial", True)
    path.write_bytes(parts[1] + parts[0])
    with open_stream(path, AUDIO, channel=2) as stream:
        second = np.concatenate(list(stream.blocks))[:, 0]
    assert np.abs(second[: 2 * RATE_HZ]).max() < 0.05
    assert np.abs(second[4 * RATE_HZ :]).max() == pytest.approx(0.5, abs=0.05)


def wav(samples, riff, data, after=b"", rate_hz=RATE_HZ):
    content, sizes = encoded(samples, rate_hz=rate_hz), [struct.pack("<I", x) for x in (riff, data)]
    return content[:4] + sizes[0] + content[8:40] + sizes[1] + content[44:] + after


WAMD = struct.pack("<4sI", b"wamd", 2000) + bytes(range(250)) * 8
SIZES = {
    "lost power": (0, 0),
    "lost power, RIFF 36": (36, 0),
    "lost power, RIFF right": (128_036, 0),
    "never knew": (0xFFFF_FFFF, 0xFFFF_FFFF),
    "sox on a pipe": (0x7FFF_F024, 0x7FFF_F000),
    "lost power later": (64_036, 64_000),
    "chunks behind": (130_044, 128_000, WAMD),
    "counts its header": (128_080, 128_044),
    "cut off": (256_036, 256_000),
}


@pytest.mark.parametrize("kind", SIZES)
def test_a_wav_is_read_to_its_end_whatever_its_sizes_say(tmp_path, kind):
    path = tmp_path / "a.wav"
    path.write_bytes(wav(tone(2), *SIZES[kind]))
    assert heard(path)[:2] == ("partial" if kind == "cut off" else "ok", 2.0)
    np.testing.assert_allclose(decode(path, AUDIO).samples, tone(2), atol=1e-4)
    np.testing.assert_allclose(clip_at(path, 1.0), tone(2)[-RATE_HZ:], atol=1e-4)
    path.write_bytes(wav(tone(0), 0, 0, WAMD))
    assert failure(path) == "empty: holds no samples"


@pytest.mark.parametrize("codec", ["libmp3lame", "adpcm_ima_wav", "adpcm_ms"])
def test_a_wav_of_other_encodings_is_read_to_its_end_without_a_size(tmp_path, codec):
    path = tmp_path / "a.wav"
    content = made(f"ffmpeg -i a.wav -c:a {codec} -q:a 4 b.wav", LOUD_THEN_QUIET, 44_100)
    place = content.index(b"data") + 4
    for data in (content, content[:place] + bytes(4) + content[place + 4 :]):
        path.write_bytes(data)
        assert heard(path)[:2] == ("ok", 12.0)
    path.write_bytes(cut(content))
    assert heard(path)[0] == "partial"


def test_a_wav_past_4_gib_whose_size_wrapped_around(tmp_path):
    path, more, rate = tmp_path / "a.wav", 1 << 20, 500_000
    with path.open("wb") as file:
        file.write(wav(tone(0), more + 36, more, rate_hz=rate))
        file.truncate(44 + (1 << 32) + more)  # sparse
        file.seek(-2000, 2)
        file.write(b"\1\2" * 1000 + WAMD)
    with Reader(path) as reader:
        assert (reader.frames, reader.problem) == (((1 << 32) + more) // 2, "")
        assert reader.segment(reader.frames - 1000, reader.frames).all()


@pytest.mark.parametrize(
    "command", ["sox a.wav -t wav -", "sox a.wav -t aiff -", "flac -s --ignore-chunk-sizes -c a.wav"]
)
def test_what_is_written_to_a_pipe_is_heard_to_its_end(tmp_path, command):
    path, samples = tmp_path / "a", noise(3)
    path.write_bytes(made(command, samples))
    assert heard(path) == ("ok", 3.0, "")
    np.testing.assert_allclose(decode(path, AUDIO).samples, samples, atol=4e-5)
    np.testing.assert_allclose(clip_at(path, 1.0), samples[-RATE_HZ:], atol=4e-5)
    if command.startswith("flac"):  # by its last block
        path.write_bytes(cut(path.read_bytes()))
        status, seconds, reason = heard(path)
        assert (status, reason) == ("partial", f"read {seconds} s: the file is cut off")


REFUSED = ["-c:a flac b.ogg", "-ar 16000 -c:a g722 b.wav", "-c:a flac b.mkv", "b.aac", "-c:a wmav2 b.wma"]
REFUSED += ["-c:a pcm_s16le -movflags faststart b.mov", "-movflags faststart b.m4a"]


@pytest.mark.parametrize("options", REFUSED)
def test_what_libsndfile_refuses_goes_to_ffmpeg_by_its_content(tmp_path, monkeypatch, options):
    path = tmp_path / "any.name"
    path.write_bytes(made(f"ffmpeg -i a.wav {options}", noise(6)))
    assert heard(path)[:2] == ("ok", pytest.approx(6, abs=0.11))
    whole = decode(path, AUDIO).samples
    np.testing.assert_allclose(decode_clip(path, AUDIO).samples, center(whole, 5 * RATE_HZ), atol=2e-4)
    with Reader(path) as reader:
        rate = reader.rate_hz
        native = np.concatenate([reader.segment(k * rate, k * rate + rate) for k in range(3)])
        np.testing.assert_array_equal(native, next(reader.blocks())[: 3 * rate])
    path.write_bytes(cut(path.read_bytes()))
    assert heard(path)[0] == "partial"
    monkeypatch.setenv("PATH", "")
    assert re.match(f"unreadable: .*{LACKS}$", failure(path))


def test_channels_that_cancel_each_other_out_are_told(tmp_path):
    path, sound, other = tmp_path / "a.wav", noise(2), noise(2, seed=1)
    choose = "choose one with --channel"
    for pair, expected in (
        ((sound, -sound), ("silent", f"its channels cancel each other out in the mean: {choose}")),
        ((sound, -0.9 * sound), ("partial", f"its channels nearly cancel each other out (26 dB): {choose}")),
        ((sound, -0.7 * sound), ("ok", "")),
        ((sound, other), ("ok", "")),
        ((sound, 0 * sound), ("ok", "")),
        ((0 * sound, 0 * sound), ("silent", "all samples are zero")),
    ):
        path.write_bytes(encoded(np.stack(pair, axis=1), subtype="FLOAT"))
        assert heard(path)[::2] == expected
        with open_stream(path, AUDIO, channel=1) as stream:
            assert sum(len(x) for x in stream.blocks) == len(sound)
        assert stream.status == ("ok" if pair[0].any() else "silent")


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_a_crop_of_a_long_recording_takes_memory_for_the_crop_only(tmp_path, form):
    path = tmp_path / "a"
    path.write_bytes(encoded(np.tile(noise(30), 20), form))
    tracemalloc.start()
    decode_clip(path, AUDIO, 0.7)
    heard(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6  # the whole is 77 MB
