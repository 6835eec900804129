"""`keras-birds data soundscapes`: sound outdoors, calls found by energy, and that the truth fits what is heard."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from small_run import files_below, write_csv
from sounds import RATE_HZ, noise, tone

from keras_birds.audio import outdoors
from keras_birds.audio.outdoors import air_absorption_db_per_m, cut_call, find_calls, from_afar
from keras_birds.data.unlabelled import known_recordings

TONES_HZ = {"cow": 600.0, "cat": 2500.0, "dog": 9000.0}


def level_db(samples, band):
    return 10 * np.log10(outdoors.Spectrum(samples, RATE_HZ).power(band))


def test_air_takes_from_tones_what_the_standard_lists():
    octaves_hz = 125.0 * 2.0 ** np.arange(7)
    # ISO 9613-2:1996, table 2, in dB/km: 20 and 10 °C at 70 %, 15 °C at 20 %.
    table = {
        (20, 70): [0.3, 1.1, 2.8, 5.0, 9.0, 22.9, 76.6],
        (10, 70): [0.4, 1.0, 1.9, 3.7, 9.7, 32.8, 117],
        (15, 20): [0.6, 1.2, 2.7, 8.2, 28.2, 88.8, 202],
    }
    for place, expected in table.items():
        found = 1000 * air_absorption_db_per_m(octaves_hz, *place)
        np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.06)


def test_a_call_from_afar_is_weaker_duller_and_reverberant():
    call, low, high = noise(1.0, seed=5), (300, 700), (11_500, 12_500)
    near, far = (from_afar(call, RATE_HZ, x, np.zeros(0)) for x in (40.0, 80.0))
    assert level_db(call, low) - level_db(near, low) == pytest.approx(20 * np.log10(40), abs=0.3)
    assert level_db(near, low) - level_db(far, low) == pytest.approx(6.0, abs=0.2)
    lost_db = 40 * air_absorption_db_per_m(12_000)
    assert level_db(near, high) - level_db(far, high) == pytest.approx(6.0 + lost_db, abs=0.4)
    assert lost_db > 4
    answer = outdoors.reverberation(RATE_HZ, 0.8, np.random.default_rng(0))
    energy = np.cumsum(np.square(answer)[::-1])[::-1]
    assert energy[0] == pytest.approx(1)
    assert 10 * np.log10(energy[round(0.4 * RATE_HZ)]) == pytest.approx(-30, abs=1)
    both = from_afar(call, RATE_HZ, outdoors.CRITICAL_M, answer)
    added = both - np.pad(from_afar(call, RATE_HZ, outdoors.CRITICAL_M, np.zeros(0)), (0, len(answer)))
    assert np.square(added).sum() == pytest.approx(np.square(both - added).sum(), rel=0.1)


def test_calls_are_found_by_energy_and_cut_from_their_noise():
    silence, hiss = np.zeros(RATE_HZ), noise(8.0) / 30
    barks = [silence, tone(0.2), silence, tone(0.5), np.zeros(6400), tone(0.3), silence, tone(0.4) / 10]
    assert find_calls(hiss, RATE_HZ) == [(0, len(hiss))], "a level that hardly changes is one call"
    assert find_calls(np.pad(hiss, RATE_HZ), RATE_HZ)[0] == pytest.approx((RATE_HZ, 9 * RATE_HZ), abs=1000)
    assert find_calls(silence, RATE_HZ) == find_calls(hiss[:100], RATE_HZ) == []
    sound = np.concatenate(barks)
    sound = sound + hiss[: len(sound)]
    spans = find_calls(sound, RATE_HZ)
    expected = [(1.0, 1.2), (2.2, 3.2)]  # two of them a call, the last too weak
    assert np.ravel(spans) / RATE_HZ == pytest.approx(np.ravel(expected), abs=0.04)
    call = cut_call(sound, RATE_HZ, spans[1], spans)
    as_it_was = sound[slice(*spans[1])]
    assert len(call) == len(as_it_was)
    assert level_db(as_it_was, (900, 1100)) - level_db(call, (900, 1100)) < 0.5
    assert level_db(as_it_was, (4000, 9000)) - level_db(call, (4000, 9000)) > 8
    assert abs(call[0]) < 1e-6


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A data set of three labels, each of them a tone; some recordings are of no use; noise of two places."""
    rows, audio = [], tmp_path / "clips" / "train_audio"
    audio.mkdir(parents=True)
    for label, hz in TONES_HZ.items():
        for i in range(6):
            # Only the last dog is with another: some tables name the first label twice.
            second = "cat" if (label, i) == ("dog", 5) else label if i == 4 else ""
            rows.append([f"{label}{i}.wav", label, [second]])
            sound = np.pad(tone(1.0, frequency_hz=hz * (1 + i / 50)), RATE_HZ)
            soundfile.write(audio / rows[-1][0], sound, RATE_HZ)
    soundfile.write(audio / "cow0.wav", np.zeros(RATE_HZ), RATE_HZ)
    (audio / "cat0.wav").write_bytes(b"RIFF nothing")
    write_csv(tmp_path / "clips" / "train.csv", ["filename", "primary_label", "secondary_labels"], rows)
    for k in range(8):
        path = tmp_path / "noise" / "ab"[k % 2] / f"{k}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(3.0, seed=k), RATE_HZ)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make(run_command, places):
    def call(*arguments):
        usual = {"--data": "clips", "--background": "noise", "--count": 8, "--seconds": 20}
        options = [y for x in usual.items() if x[0] not in arguments for y in x]
        return run_command("data", "soundscapes", *options, *arguments)

    return call


def read(folder):
    return pd.read_csv(f"{folder}/annotations.csv"), json.loads(Path(folder, "soundscapes.json").read_text())


def test_the_truth_fits_what_is_heard(make):
    scene = "--calls 4 9 --overlap-max 2 --quiet 0.3 --reverb-s 0 0 --snr-db 30 30 --distance-m 10 40"
    code, out, err = make("--out", "made", *scene.split())
    assert code == 0, err
    table, about = read("made")
    assert f"8 soundscapes of 20 s over 8 background recordings: {len(table)} calls of 3 labels" in out
    assert "Left out: 1 recording with secondary labels" in out
    assert {Path(x).name for x in about["left_out"]} == {"cow0.wav", "cat0.wav"}
    assert "cow0.wav holds no sound, left out" in err
    for file, rows in table.groupby("file"):
        sound, rate_hz = soundfile.read(f"made/{file}")
        assert (len(sound), rate_hz) == (20 * RATE_HZ, RATE_HZ)
        assert soundfile.info(f"made/{file}").subtype == "PCM_16"
        times, moments = rows[["start_s", "end_s"]].to_numpy(), np.arange(0, 20, 0.01)
        there = (moments[:, None] >= times[:, 0]) & (moments[:, None] < times[:, 1])
        assert there.sum(axis=1).max() <= 2
        free = "".join("." if x else " " for x in ~there.any(axis=1))
        assert max(map(len, free.split())) >= 0.3 * 2000 - 2
        for label, hz in TONES_HZ.items():
            band, levels = (0.98 * hz, 1.13 * hz), {0: [-99.0], 1: [0.0]}
            for at in range(0, 2000, 50):
                share = there[at : at + 50, rows["label"] == label].any(axis=1).mean()
                part = sound[at * RATE_HZ // 100 :][: RATE_HZ // 2]
                levels.setdefault(share, []).append(level_db(part, band))
            assert min(levels[1]) > max(levels[0]) + 3
    # At 20 m, the middle, what was asked for; farther it is less, nearer more.
    expected = 30 - 20 * np.log10(table["distance_m"] / 20)
    lost = table["distance_m"] * air_absorption_db_per_m(table["label"].map(TONES_HZ))
    np.testing.assert_allclose(table["snr_db"], expected - lost, atol=2.0)
    assert table["distance_m"].between(10, 40).all()


def test_equal_seeds_give_equal_files_and_nothing_else_is_overwritten(make):
    def content(folder):
        return {x: Path(folder, x).read_bytes() for x in files_below(Path(folder))}

    for name, workers in (("one", 1), ("two", 3)):
        make("--out", name, "--workers", workers, "--count", 3)
    first = content("one")
    assert len(first) == 6
    assert content("two") == first
    Path("two/annotations.csv").unlink()  # as a kill leaves it
    Path("two/soundscape_0003.flac").unlink()
    assert make("--out", "two", "--count", 3)[0] == 0
    assert content("two") == first
    make("--out", "three", "--seed", 43, "--count", 3)
    assert not set(content("three").values()) & {y for x, y in first.items() if x.endswith(".flac")}
    code, _, err = make("--out", "two", "--seed", 7)
    assert (code, "which holds other soundscapes" in err) == (1, True)
    code, _, err = make("--out", "clips")
    assert (code, "which holds something else" in err) == (1, True)


def test_parts_share_neither_recordings_nor_backgrounds(make):
    folds = ("--set", "folds.n_folds=2", "--set", "folds.hidden_fraction=0.34")
    parts = {"h": "--part hidden", "t": "--part training --fold 1", "v": "--part validation --fold 1"}
    heard, behind = {}, {}
    for name, part in parts.items():
        half = ("--background-part", "2/2" if name == "v" else "1/2")
        assert make("--out", name, *part.split(), *folds, *half)[0] == 0
        table, about = read(name)
        heard[name] = set(table["source"])
        behind[name] = {x for y in about["soundscapes"].values() for x in y["background"]}
    assert not heard["h"] & heard["t"] | heard["h"] & heard["v"] | heard["t"] & heard["v"]
    assert {Path(x).parent.name for x in behind["h"]} == {"a", "b"}
    assert not behind["h"] & behind["v"]
    # Whoever looks for recordings of the data set finds those that soundscapes were made of.
    made, clips = sorted(Path("h").glob("*.flac")), sorted(Path("clips").rglob("*.wav"))
    shared = sorted(known_recordings([*made, Path("noise/a/0.flac")], clips))
    assert [(x, why) for x, _, why in shared] == [(x, "was made of") for x in made]
    assert {str(x.relative_to("clips")) for _, x, _ in shared} <= heard["h"]
    assert not known_recordings(made, [Path("clips", x) for x in heard["t"] | heard["v"]])


def test_soundscapes_without_a_call_say_so(make, run_command):
    assert "0 calls of 0 labels" in make("--out", "made", "--calls", 0, 0)[1]
    assert len(Path("made/annotations.csv").read_text().splitlines()) == 9
    code, out, _ = run_command("data", "check", "made", "--set", "data.annotations=annotations.csv")
    assert (code, "8 recordings, 3 labels" in out) == (0, True), out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ("--part training", 2, "--fold K goes with --part training or validation. Received: --part training"),
        ("--fold 1", 2, "Received: --part all with --fold"),
        ("--part validation --fold 9", 2, "--fold must be one of 0, 1, 2, 3, 4"),
        ("--part hidden --set folds.hidden_fraction=0", 2, "--part hidden needs hidden recordings"),
        ("--calls 5 4", 2, "LOW must not exceed HIGH. Received: 5 4"),
        ("--background-part 3/2", 2, "must be K/N with K from 1 to N"),
        ("--set data.annotations=x", 2, "data soundscapes cuts calls from labelled recordings"),
        ("--background clips", 1, "must hold none of the data set's recordings. Received: 18 of them, first"),
        ("--background empty", 1, "soundscapes need background. Received: no recordings"),
        ("--background bad", 1, "backgrounds that can be read and heard. Received: bad/a.wav: is empty"),
    ],
)
def test_a_wrong_call(make, arguments, code, told):
    for name in ("empty", "bad"):
        Path(name).mkdir()
    Path("bad/a.wav").touch()
    found, _, err = make("--out", "made", *arguments.split())
    assert (found, told in err) == (code, True), err
    assert not Path("made/annotations.csv").exists()
