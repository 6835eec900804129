"""`keras-birds data preview`: one clip under each augmentation."""

from functools import partial

import matplotlib.image
import numpy as np
import pytest

SMALL = ("--config", "smoke")


@pytest.fixture
def run(run_command, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return partial(run_command, "data", "preview")


@pytest.fixture
def clips(write_tone):
    return write_tone("clips/a.ogg", 1000.0, seconds=3), write_tone("clips/b.wav", 4000.0, seconds=6)


def read_figure(path):
    """Pixels `[height, width, 3]`, 0 to 1."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return matplotlib.image.imread(path)[..., :3]


def drawn_panels(path):
    """How many panels of the grid, 310 pixels each, by 3, have something in their middle: one after another."""
    pixels = read_figure(path)
    rows = round(pixels.shape[0] / 310)
    height, width = pixels.shape[0] // rows, int(0.92 * pixels.shape[1]) // 3
    middles = [(int((r + 0.55) * height), int((c + 0.5) * width)) for r in range(rows) for c in range(3)]
    drawn = [bool((pixels[y - 30 : y + 30, x - 60 : x + 60] < 1).any()) for y, x in middles]
    assert drawn == sorted(drawn, reverse=True)
    return rows, sum(drawn)


def test_a_file_under_each_augmentation(run, clips, tmp_path):
    assert run(clips[0], *SMALL) == (0, "Figure: preview.png\n", "")
    assert drawn_panels(tmp_path / "here" / "preview.png") == (4, 10)
    assert [x.name for x in (tmp_path / "here").iterdir()] == ["preview.png"]
    assert sorted(x.name for x in clips[0].parent.iterdir()) == ["a.ogg", "b.wav"]

    run(clips[0], "--out", "mfcc.png", *SMALL, "--set=mel.feature=mfcc")
    assert drawn_panels(tmp_path / "here" / "mfcc.png") == (3, 8)  # neither pitch nor volume


def test_a_recording_of_the_data_set(run, animals_dir, tmp_path):
    pixels = []
    for seed in (1, 1, 2):
        out = tmp_path / "a.PNG"
        assert run("--data", animals_dir, "--seed", seed, "--out", out, *SMALL) == (0, f"Figure: {out}\n", "")
        pixels.append(read_figure(out))
    first, again, other = pixels
    np.testing.assert_array_equal(first, again)
    # The first panel is the clip as it is: another seed chooses another recording.
    height, width = first.shape[0] // 3, first.shape[1] // 3
    middle = np.s_[height // 2 : int(0.8 * height), width // 3 : int(0.8 * width)]
    assert np.abs(first[middle] - other[middle]).mean() > 0.01


def test_a_background_is_drawn_if_it_is_mixed_in(run, clips, tmp_path):
    settings = ["--set", f"data.background={clips[0].parent}", "--set=augment.background.probability=0.5"]
    code, _, _ = run(clips[0], "--out", tmp_path / "a.png", *SMALL, *settings)
    assert code == 0
    assert drawn_panels(tmp_path / "a.png") == (4, 11)
    code, _, err = run(clips[0], *SMALL, f"--set=data.background={tmp_path / 'none'}", settings[-1])
    assert code == 1
    assert "data.background must be a folder with recordings" in err


def test_a_corrupt_file_is_named_in_one_line_and_a_corrupt_neighbour_left_out(run, write_tone, tmp_path):
    file, bad = write_tone("clips/a.wav", seconds=1), tmp_path / "clips" / "b.wav"
    bad.touch()
    write_tone("clips/c.wav", 3000, seconds=1)
    assert run(bad, "--out", tmp_path / "a.png", *SMALL) == (1, "", f"Error: {bad}: is empty (0 bytes)\n")
    assert not (tmp_path / "a.png").exists()
    code, _, err = run(file, "--out", tmp_path / "a.png", *SMALL)
    assert (code, err) == (0, f"Left out: {bad}: is empty (0 bytes)\n")
    bad.unlink()
    assert run(file, "--out", tmp_path / "b.png", *SMALL)[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_data_set_needs_two_recordings_that_can_be_read(run, write_tone, tmp_path):
    bad = write_tone("birds/wren/a.wav", seconds=1).with_name("b.wav")
    bad.touch()
    code, _, err = run("--data", tmp_path / "birds", "--out", tmp_path / "a.png", *SMALL)
    assert code == 1
    assert f"Left out: {bad}: is empty (0 bytes)\n" in err
    assert f"a preview needs two recordings that can be read. Received: 1 in {tmp_path / 'birds'}\n" in err
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["none.ogg"], "none.ogg"),
        (["CLIP", "--data", "."], "give FILE or --data, not both"),
        (["CLIP", "--out", "a.jpg"], "must end in .png. Received: a.jpg"),
        (["--data", "none"], "--data must be an existing folder"),
        (["CLIP", "--out", "none/a.png"], "there is no folder none"),
        (["CLIP", "--seed", "-1"], "--seed"),
        (["CLIP", "--set", "mel.feature=cqt"], "mel.feature"),
    ],
)
def test_a_wrong_call(run, clips, arguments, told):
    code, _, err = run(*(clips[0] if x == "CLIP" else x for x in arguments))
    assert code == 2
    assert told in err
