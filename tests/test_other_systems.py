"""What Windows and macOS do otherwise, simulated where it can be: encodings, locks, open files, names, disks."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import keras_birds
from keras_birds.embeddings.index import build_index
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.errors import KerasBirdsError
from keras_birds.file_lock import lock
from keras_birds.results.journal import Journal
from keras_birds.results.writers.files import recording_path, safe_name
from keras_birds.text import relative_name

ROOT = Path(keras_birds.__file__).parents[1]


def told(*arguments, encoding):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    call = [sys.executable, "-m", "keras_birds", *arguments]
    return subprocess.run(call, capture_output=True, env=environment, check=True).stdout


def test_letters_that_a_terminal_lacks_end_nothing_and_json_has_them():
    """Output into a file or a pipe on Windows has the system's code page."""
    assert b"128 ? 256" in told("info", "animals", encoding="cp437")
    assert "128 × 256" in told("info", "animals", "--format", "json", encoding="cp437").decode("utf-8")


class Windows(types.ModuleType):
    """The module msvcrt: bytes that are locked, with the handles that hold them."""

    LK_NBLCK = 2

    def __init__(self):
        super().__init__("msvcrt")
        self.locked = {}

    def locking(self, descriptor, mode, count):
        place = os.lseek(descriptor, 0, os.SEEK_CUR), os.fstat(descriptor).st_ino
        if (mode, count) != (self.LK_NBLCK, 1) or place in self.locked:
            raise PermissionError(13, "Permission denied")
        self.locked[place] = descriptor


def test_two_processes_dont_write_one_journal_on_windows_either(tmp_path, monkeypatch):
    windows = Windows()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    first = Journal(tmp_path / "out", {"a": 1})
    ((place, _),) = windows.locked
    assert place > 1 << 30, "a locked byte that a reader needs"
    with pytest.raises(KerasBirdsError, match="by one process at a time"):
        Journal(tmp_path / "out", {"a": 1})
    windows.locked.clear()
    first.close()
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"abc")
        lock(file)
        assert file.tell() == 3


def test_an_index_is_renamed_when_nothing_maps_it(tmp_path, monkeypatch, embedded):
    renamed = []

    def replace(source, target):
        assert str(source) not in Path("/proc/self/maps").read_text("utf-8")
        renamed.append(Path(target).name)
        os.rename(source, target)  # noqa: PTH104 - what is replaced here calls itself

    monkeypatch.setattr(os, "replace", replace)
    build_index(EmbeddingStore(embedded))
    assert len(renamed) == 3


@pytest.fixture
def embedded(tmp_path, disk, run_command):
    run_command("embed", disk / "0.flac", "--model", "animals", "--out", tmp_path / "season.emb")
    return tmp_path / "season.emb"


def test_names_that_windows_keeps_for_devices_are_escaped():
    names = ["con", "CON", "nul.wav", "COM1", "aux .x", "com¹"]
    assert [safe_name(x)[:1] for x in names] == ["%"] * len(names)
    assert [safe_name(x) for x in ("conure", "com10", "xcon.con")] == ["conure", "com10", "xcon.con"]
    assert recording_path("rec/aux/a.wav", ".csv").parts == ("rec", "%61ux", "a.wav.csv")


def test_a_recording_on_another_disk_has_its_whole_name(tmp_path, monkeypatch):
    def relpath(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    assert relative_name(tmp_path / "a" / "b.wav", tmp_path) == "a/b.wav"
    monkeypatch.setattr(os.path, "relpath", relpath)
    assert relative_name("D:/b.wav", tmp_path) == "D:/b.wav"
