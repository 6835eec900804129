import errno
import os
import re

import pytest

from keras_birds.atomic import atomic_path
from keras_birds.errors import KerasBirdsError


def test_a_file_is_there_whole_or_as_it_was(tmp_path):
    path = tmp_path / "answer.csv"
    path.write_text("before")
    with pytest.raises(ValueError, match="no number"), atomic_path(path) as temporary:
        int(f"{temporary.write_text('half')} is no number")
    assert path.read_text() == "before"
    with atomic_path(path) as temporary:
        temporary.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    for error in (OSError(errno.EIO, "Input/output error"), FileNotFoundError(2, "gone", "other.wav")):
        with pytest.raises(OSError, match=r"error|gone") as caught, atomic_path(path):
            raise error
        assert caught.value is error  # of a read within
    assert [x.name for x in tmp_path.iterdir()] == ["answer.csv"]


def write_and_fill_disk(path):
    path.write_text("a")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


FULL = "No space left on device. Free some space or choose another place"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a.csv", FULL),
        ("no/such/a.csv", "No such file or directory. Choose another place"),
        ("file/a.csv", "Not a directory. Choose another place"),
        ("folder", "Is a directory. Choose another place"),
        ("/dev/full", FULL),
    ],
)
def test_a_write_that_fails_is_told_for_what_it_is(tmp_path, name, told):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    expected = re.escape(f"{path} can't be written. Received: {told}") + "$"
    with pytest.raises(KerasBirdsError, match=expected), atomic_path(path) as temporary:
        write_and_fill_disk(temporary)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["file", "folder"]
