"""What Windows and macOS do otherwise, simulated where it can be: encodings, locks, open files, names, disks."""

import os
import subprocess
import sys
import types
from pathlib import Path

import psutil
import pytest

import keras_birds
from keras_birds.embeddings.index import build_index
from keras_birds.embeddings.store import EmbeddingStore
from keras_birds.errors import KerasBirdsError
from keras_birds.results.journal import Journal
from keras_birds.results.writers.files import recording_path, safe_name

PATH = {"PYTHONPATH": str(Path(keras_birds.__file__).parents[1])}


def told(*arguments, encoding):
    environment = os.environ | PATH | {"PYTHONIOENCODING": encoding}
    call = [sys.executable, "-m", "keras_birds", *arguments]
    return subprocess.run(call, capture_output=True, env=environment, check=True).stdout


def test_letters_that_a_terminal_lacks_end_nothing_and_json_has_them():
    """Output into a file or a pipe on Windows has the system's code page."""
    assert b"128 ? 256" in told("info", "animals", encoding="cp437")
    assert "128 × 256" in told("info", "animals", "--format", "json", encoding="cp437").decode("utf-8")


def test_two_processes_dont_write_one_journal_on_windows_either(tmp_path, monkeypatch):
    locked = []

    def locking(descriptor, mode, count):
        place = os.lseek(descriptor, 0, os.SEEK_CUR), os.fstat(descriptor).st_ino
        if place in locked:
            raise PermissionError(13, "Permission denied")
        locked.append(place)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(LK_NBLCK=2, locking=locking))
    first = Journal(tmp_path / "out", {"a": 1})
    assert locked[0][0] > 1 << 30, "a locked byte that a reader needs"
    with pytest.raises(KerasBirdsError, match="by one process at a time"):
        Journal(tmp_path / "out", {"a": 1})
    first.close()


@pytest.fixture
def windows_files(monkeypatch):
    """What is open or mapped here can't be replaced or removed, and only what may be written is sent to the disk."""
    own = psutil.Process()

    def guarded(call):
        def guard(*paths, **options):
            held = {x.path for x in (*own.open_files(), *own.memory_maps())}
            if held & {os.path.realpath(x) for x in paths}:
                raise PermissionError(13, "The process cannot access the file", paths[0])
            return call(*paths, **options)

        return guard

    def sync(descriptor, call=os.fsync):
        os.write(descriptor, b"")  # EBADF where it is open to be read only
        call(descriptor)

    for name in ("replace", "unlink"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    monkeypatch.setattr(os, "fsync", sync)


@pytest.mark.skipif(sys.platform != "linux", reason="simulates Windows on Linux")
@pytest.mark.usefixtures("windows_files")
def test_no_file_that_is_open_is_renamed_or_removed(tmp_path, disk, run_command):
    for command in ("embed", "detect", "detect"):  # the second time results go on
        (disk / "bad.flac").unlink(missing_ok=True)
        done = run_command(command, disk, "--model", "animals", "--out", tmp_path / command)
        assert done[0] == 0, done
    build_index(EmbeddingStore(tmp_path / "embed"))
    assert build_index(EmbeddingStore(tmp_path / "embed")).recall > 0


def test_names_that_windows_keeps_for_devices_are_escaped():
    names = ["con", "CON", "nul.wav", "COM1", "aux .x", "com¹"]
    assert [safe_name(x)[:1] for x in names] == ["%"] * len(names)
    assert [safe_name(x) for x in ("conure", "com10", "xcon.con")] == ["conure", "com10", "xcon.con"]
    assert recording_path("rec/aux/a.wav", ".csv").parts == ("rec", "%61ux", "a.wav.csv")


def test_a_mac_computes_on_the_processor():
    code = (
        "import os, sys; sys.platform = 'darwin'; import keras_birds; print(os.environ['KERAS_TORCH_DEVICE'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | PATH)
    assert (done.stdout, done.stderr) == ("cpu\n", "")
