import csv
import io
import os
import re
import shutil
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

from keras_birds.audio import remote
from keras_birds.audio.files import find_inputs, recordings_in
from keras_birds.audio.remote import file_fingerprint, is_url, open_url, url_path
from keras_birds.errors import AudioError, ConfigError, DataError

ODD_NAMES = [
    "two words.wav",
    'it\'s "so".wav',
    "line\nbreak.wav",
    "горихвостка 栗林.wav",
    "[a]*?.wav",
    "tab\t.wav",
]


def refuse(name, reason):
    raise AssertionError(f"unexpected problem: {name}: {reason}")


def inputs(*arguments, stdin=None, on_problem=refuse):
    return list(find_inputs([str(x) for x in arguments], stdin and io.BytesIO(stdin), on_problem))


def refused(*arguments, stdin=None, on_problem=refuse, kind=DataError):
    """The one-line error, which comes before the first name is asked for."""
    with pytest.raises(kind) as caught:
        find_inputs([str(x) for x in arguments], stdin and io.BytesIO(stdin), on_problem)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


# Files and folders


def test_named_files_are_taken_whatever_they_are_called(here):
    touch(here, "a.wav", "b.dat", "c", *ODD_NAMES)
    names = ["c", "b.dat", "a.wav", *ODD_NAMES]
    assert inputs(*names) == names


def test_a_folder_gives_its_audio_files_folder_by_folder(here):
    touch(
        here,
        "rec/b.WAV",
        "rec/a.flac",
        "rec/notes.txt",
        "rec/.hidden.wav",
        "rec/.trash/x.wav",
        "elsewhere/y.wav",
    )
    touch(
        here, "rec/z/1.ogg", "rec/z/y/2.ogg", "rec/c/3.mp3", "rec/c.wav", *(f"rec/odd/{x}" for x in ODD_NAMES)
    )
    (here / "rec/link").symlink_to(here / "elsewhere")
    (here / "rec/broken.wav").symlink_to(here / "gone")
    (here / "rec/loop.wav").symlink_to(here / "rec/loop.wav")
    found = inputs("rec")
    assert found == recordings_in(Path("rec"))
    assert found[:5] == ["rec/a.flac", "rec/b.WAV", "rec/broken.wav", "rec/c.wav", "rec/loop.wav"]
    assert sorted(found[5:-2]) == sorted(["rec/c/3.mp3", *(f"rec/odd/{x}" for x in ODD_NAMES)])
    assert found[-2:] == ["rec/z/1.ogg", "rec/z/y/2.ogg"]


def test_every_file_of_a_folder_is_a_recording_or_named(here):
    found = ["a.3gp", "b.wv", "c.mov", "d.mp2", "e.mkv", "f.mka", "g.amr", "h.ogg", "i.spx", "j.avi"]
    strange = ["odd/1.dat", "odd/2.zip", "odd/3", "odd/4.wav.part"]
    passed_over = [
        "._a.wav",
        ".x/a.wav",
        "t.csv",
        "t.json",
        "t.parquet",
        "t.png",
        "README",
        "a.toml",
        "n.TXT",
    ]
    touch(here, *(f"rec/{x}" for x in (*found, *strange, *passed_over)))
    problems = []
    assert inputs("rec", on_problem=lambda *x: problems.append(x)) == [f"rec/{x}" for x in found]
    assert problems == [
        (
            "rec",
            "holds 4 files of unknown kind, left out: 'rec/odd/1.dat', 'rec/odd/2.zip', 'rec/odd/3' and 1 more; "
            "name those that are sound",
        )
    ]


def test_what_is_left_out_is_logged_where_nobody_asks(here, caplog):
    touch(here, "rec/a.wav", "rec/b.dat")
    assert recordings_in(here / "rec") == [f"{here}/rec/a.wav"]
    assert "holds 1 file of unknown kind, left out" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="needs names that aren't UTF-8")
def test_names_that_are_not_utf8_come_through(here):
    touch(here, "rec/é.wav")
    with open(b"rec/\xe9.wav", "wb"):  # noqa: PTH123 - bytes
        pass
    expected = [f"rec/{x}" for x in ("é.wav", os.fsdecode(b"\xe9.wav"))]
    assert inputs("rec") == expected
    assert inputs("-", stdin=b"rec/\xe9.wav\n") == expected[1:]
    (here / "list.csv").write_bytes(b"file\nrec/\xe9.wav\n")
    assert [Path(x).name for x in inputs("list.csv")] == [os.fsdecode(b"\xe9.wav")]


@pytest.mark.parametrize("argument", ["rec", "rec/**/*.wav"])
def test_a_folder_that_can_not_be_listed_is_told_and_the_others_go_on(here, argument):
    touch(here, "rec/1.wav", "rec/a/2.wav", "rec/b/3.wav")
    problems = []
    found = find_inputs([argument], None, lambda *x: problems.append(x))
    assert next(found) == "rec/1.wav"
    shutil.rmtree(here / "rec/a")
    assert list(found) == ["rec/b/3.wav"]
    assert problems == [("rec/a", "can't be listed (No such file or directory)")]


@pytest.fixture
def unprivileged(here):
    """The current folder, and no right to read what is forbidden: root gives its rights up for the test."""
    if sys.platform == "win32":
        pytest.skip("no such rights")
    here.chmod(0o755)
    is_root = os.geteuid() == 0
    yield lambda: os.seteuid(65534) if is_root else None
    if is_root:
        os.seteuid(0)


def test_a_forbidden_folder_is_told(here, unprivileged):
    touch(here, "rec/1.wav", "rec/a/2.wav", "rec/b/3.wav", "closed/4.wav")
    (here / "rec/a").chmod(0)
    (here / "closed").chmod(0)
    unprivileged()
    problems = []
    assert inputs("rec", on_problem=lambda *x: problems.append(x)) == ["rec/1.wav", "rec/b/3.wav"]
    assert problems == [("rec/a", "can't be listed (Permission denied)")]
    assert "'closed/4.wav' (Permission denied)" in refused("rec", "closed/4.wav")
    assert refused("closed", on_problem=lambda *x: problems.append(x)).endswith("'closed'")
    assert problems[1:] == [("closed", "can't be listed (Permission denied)")]


def test_each_recording_comes_once_under_its_first_name(here):
    touch(here, "rec/a.wav", "rec/b.wav")
    assert inputs("./rec/b.wav", "rec", here / "rec", "rec/", "rec/*.wav", "rec/b.wav") == [
        "./rec/b.wav",
        "rec/a.wav",
    ]
    listed = b"rec/b.wav\nrec//a.wav\nrec/a.wav\ngone.wav\n./gone.wav\n"
    assert inputs("-", stdin=listed) == ["rec/b.wav", "rec//a.wav", "gone.wav"]


def test_all_missing_arguments_are_named_before_anything_else(here):
    touch(here, "a.wav", "rec/b.wav")
    stdin = io.BytesIO(b"a.wav\n")
    with pytest.raises(DataError) as caught:
        find_inputs(["a.wav", "gone.wav", "-", "rec", "line\nbreak", "", "a.wav/b"], stdin, refuse)
    message = str(caught.value)
    gone = "(No such file or directory)"
    assert message.endswith(
        f"Received: 'gone.wav' {gone}, 'line\\nbreak' {gone}, '' {gone}, 'a.wav/b' (Not a directory)"
    )
    assert stdin.tell() == 0


def test_folders_and_globs_without_recordings_are_named(here):
    touch(here, "a.wav", "empty/notes.txt", "deep/x/.hidden.wav")
    message = refused("a.wav", "empty", "deep", "*.flac", "gone/**/*.wav")
    assert message.endswith("Received none in: 'empty', 'deep', '*.flac', 'gone/**/*.wav'")


def test_a_batch_may_go_on_without_what_is_gone(here):
    touch(here, "a.wav", "empty/notes.txt")
    gone = []
    found = find_inputs(["gone.wav", "a.wav", "empty", "*.flac"], None, refuse, lambda *x: gone.append(x))
    assert list(found) == ["a.wav"]
    assert gone == [
        ("gone.wav", "No such file or directory"),
        ("empty", "it holds no recordings"),
        ("*.flac", "it holds no recordings"),
    ]
    assert inputs() == []


# Globs


@pytest.fixture
def tree(here):
    touch(here, "s1/2023/a.wav", "s1/2023/b.dat", "s1/2024/c.wav", "s1/top.wav", "s1/.x/h.wav", "s1/.h.wav")
    touch(here, "s2/2023/d.wav", "s2/2023/notes.txt", "other/2023/e.wav", "f.wav")
    (here / "s3").symlink_to(here / "other")
    return here


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.wav", ["f.wav"]),
        ("s?/top.wav", ["s1/top.wav"]),
        (
            "s1/2023/*",
            ["s1/2023/a.wav", "s1/2023/b.dat"],
        ),  # what matches is named, so it may be called anything
        ("s1/202[!3]/*.wav", ["s1/2024/c.wav"]),
        (
            "s[12]",
            ["s1/top.wav", "s1/2023/a.wav", "s1/2024/c.wav", "s2/2023/d.wav"],
        ),  # folders as they are read
        ("*/2023/*.wav", ["other/2023/e.wav", "s1/2023/a.wav", "s2/2023/d.wav", "s3/2023/e.wav"]),
        (
            "**/*.wav",
            ["f.wav", "other/2023/e.wav", "s1/top.wav", "s1/2023/a.wav", "s1/2024/c.wav", "s2/2023/d.wav"],
        ),
        ("s1/**", ["s1/top.wav", "s1/2023/a.wav", "s1/2024/c.wav"]),
        ("s1/**/2023/*.wav", ["s1/2023/a.wav"]),
        ("**/2023/**/*.dat", ["s1/2023/b.dat"]),
        ("s1/**/**/t*", ["s1/top.wav"]),
        ("s1/.*", ["s1/.h.wav", "s1/.x/h.wav"]),
        ("s1/../s2/*/d.wav", ["s1/../s2/2023/d.wav"]),
        ("./s1/t*", ["s1/top.wav"]),
        ("s1/*/", ["s1/2023/a.wav", "s1/2024/c.wav"]),
    ],
)
def test_globs(tree, pattern, expected):
    assert inputs(pattern, on_problem=lambda *_: None) == expected
    found = inputs(f"{tree}/{pattern}", on_problem=lambda *_: None)
    assert found == [str(tree / x) for x in expected]


def test_a_file_of_exactly_the_globs_name_wins(here):
    touch(here, "[ab].wav", "a.wav", "[cd].wav/e.wav", "c.wav")
    assert inputs("[ab].wav") == ["[ab].wav"]
    assert inputs("[cd].wav") == ["[cd].wav/e.wav"]
    assert inputs("[a].wav") == ["a.wav"]


# Lists


def write_list(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    "header",
    ["x,path,y", "filename", "path,file,filename", "Filename,PATH,x", "\ufefffile,x"],
)
def test_a_csv_lists_recordings_in_the_first_column_known(here, header):
    columns = [x.strip("\ufeff").lower() for x in header.split(",")]
    wanted = next(x for x in ("file", "path", "filename") if x in columns)
    row = ",".join("a b.wav" if x == wanted else "wrong" for x in columns)
    write_list(here / "list.CSV", f"{header}\r\n{row}\r\n\r\n")
    touch(here, "a b.wav")
    assert inputs("list.CSV") == ["a b.wav"]
    assert inputs(here / "list.CSV") == [str(here / "a b.wav")]


def test_names_in_a_csv_count_from_its_folder_else_from_here(here):
    touch(here, "lists/both.wav", "both.wav", "here.wav", "far/abs.wav", "lists/folder/x.wav")
    names = [
        "both.wav",
        "here.wav",
        "gone.wav",
        str(here / "far/abs.wav"),
        "s3://bucket/a b.wav",
        "*.wav",
        "folder",
    ]
    write_list(here / "lists/list.csv", "\n".join(["file", *names]))
    assert inputs("lists/list.csv") == ["lists/both.wav", *names[1:6], "lists/folder"]


def test_rows_of_a_csv_that_name_nothing_are_told(here):
    write_list(here / "list.csv", "x,file\n1,a.wav\n2\n3,\n\n4,b.wav\n")
    problems = []
    assert inputs("list.csv", on_problem=lambda *x: problems.append(x)) == ["a.wav", "b.wav"]
    assert problems == [
        ("list.csv", "its line 3 names no recording"),
        ("list.csv", "its line 4 names no recording"),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name,species\na.wav,x\n", "file or path or filename. Received in 'list.csv': 'name', 'species'"),
        ("file;species\na.wav;x\n", "'file;species'"),
        ("", "an empty file"),
        ("file,x\n", "Received none in: 'list.csv'"),
        ('file\n"a.wav\nb.wav\n', "must be a CSV. Received in line 3: unexpected end of data"),
    ],
)
def test_a_csv_that_lists_nothing_is_refused(here, text, problem):
    touch(here, "a.wav")
    write_list(here / "list.csv", text)
    assert problem in refused("a.wav", "list.csv")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a.wav\nb c.wav\n", ["a.wav", "b c.wav"]),
        (b"a.wav\nb.wav", ["a.wav", "b.wav"]),
        (b"\r\na.wav\r\n\r\nb.wav\r\n", ["a.wav", "b.wav"]),
        (b"\xef\xbb\xbfa.wav\n", ["a.wav"]),
        (b" a.wav \n*.wav\ns3://x/y.wav\n", [" a.wav ", "*.wav", "s3://x/y.wav"]),
        (b"a\nb.wav\0c.wav\r\0\0d.wav\0", ["a\nb.wav", "c.wav\r", "d.wav"]),
        (b"a.wav\0b.wav", ["a.wav", "b.wav"]),
        ("'栗'.wav\n".encode(), ["'栗'.wav"]),
    ],
)
def test_a_list_on_stdin(here, data, expected):
    assert inputs("-", stdin=data) == expected


@pytest.mark.parametrize("separator", [b"\n", b"\0"])
def test_a_long_list_on_stdin_comes_whole_and_as_it_is_read(here, separator):
    names = [f"{i:05d}/{'x' * (i % 97)}.wav" for i in range(5000)]
    stdin = io.BytesIO(separator.join(x.encode() for x in names))
    found = find_inputs(["-", "-"], stdin, refuse)
    assert stdin.tell() < len(stdin.getvalue()) / 3
    assert list(found) == names


def test_a_list_that_is_not_there_or_empty_is_refused(here):
    assert "no stdin" in refused("-")
    assert refused("-", stdin=b"\n\n").endswith("'-'")


# URLs


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files` with ranges; some names are special."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        name = self.path.partition("?")[0]
        self.server.requests.append((self.command, name, self.headers.get("Range")))
        if name.startswith("/forbidden"):
            return self.send_error(403)
        if name not in self.server.files:
            return self.send_error(404)
        data = self.server.files[name]
        wanted = None if name.startswith("/norange") else self.headers.get("Range")
        first, last = 0, len(data) - 1
        if wanted:
            first, last = (int(x) for x in re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
            last = min(last, len(data) - 1)
        self.send_response(206 if wanted else 200)
        if name.startswith("/norange"):
            self.send_header("Accept-Ranges", "none")
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("Last-Modified", "Wed, 10 May 2023 07:30:00 GMT")
        self.end_headers()
        if self.command == "HEAD":
            return None
        part = data[first : last + 1]
        if name.startswith("/breaks") and first:
            self.wfile.write(part[: len(part) // 2])
            self.close_connection = True
        elif name.startswith("/stalls"):
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.server.released.wait(60)
        else:
            self.wfile.write(part)
        return None

    def log_message(self, *arguments):
        pass


@pytest.fixture
def web():
    """A web server on this machine, `.url` ends without a slash."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests, server.released = {}, [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def wav_bytes():
    """7 MiB of noise as a WAV, and its samples."""
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 7 << 19, dtype=np.int16)
    file = io.BytesIO()
    soundfile.write(file, samples, 32_000, format="WAV")
    return file.getvalue(), samples


def open_failure(url):
    with pytest.raises(AudioError) as caught:
        open_url(url)
    error = caught.value
    assert str(error) == f"{url}: {error.reason}"
    assert error.path == url
    assert "\n" not in error.reason
    assert error.__suppress_context__ or error.__context__ is None
    return error.status, error.reason


def test_urls_are_told_from_paths():
    for name in ("s3://b/a.wav", "https://x.org/a?b=*", "zip://a.wav::s3://b/c.zip", "simplecache::gs://b/a"):
        assert is_url(name)
        assert not is_url(Path(name))
    for name in (
        "a.wav",
        "/data/a.wav",
        "C:\\a.wav",
        "C://a.wav",
        "s3:/b/a.wav",
        "x/http://a.wav",
        "",
        "-",
        "://",
    ):
        assert not is_url(name)
    assert url_path("https://localhost:80/a/b%20c.wav?x=1/2") == "/a/b c.wav"
    assert url_path("s3://bucket/a%20b#?.wav") == "bucket/a%20b#?.wav"


def test_a_file_is_streamed_from_a_web_server(web, wav_bytes):
    data, samples = wav_bytes
    web.files["/rec/a%20b.wav"] = data
    url = f"{web.url}/rec/a%20b.wav?when=2023"
    assert inputs(url) == [url]
    assert web.requests == []
    with open_url(url) as file, soundfile.SoundFile(file) as sound:
        sound.seek(len(samples) - 1000)
        np.testing.assert_array_equal(sound.read(dtype="int16"), samples[-1000:])
        sound.seek(0)
        np.testing.assert_array_equal(np.concatenate(list(sound.blocks(1 << 16, dtype="int16"))), samples)
    ranges = [re.fullmatch(r"bytes=(\d+)-(\d+)", x) for command, _, x in web.requests if command == "GET"]
    assert len(ranges) >= 4
    # A block ahead of what was asked.
    assert max(int(x[2]) - int(x[1]) for x in ranges) < 1.5 * (2 << 20)
    assert file_fingerprint(url) == (len(data), 1683703800 * 10**9)


@pytest.mark.parametrize("scheme", ["memory", "file", "zip"])
def test_a_file_is_read_from_any_file_system(tmp_path, memory, wav_bytes, scheme):
    data, _ = wav_bytes
    path = tmp_path / "a 'b'\n栗.wav"
    path.write_bytes(data)
    memory.pipe("/rec/a.wav", data)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(path, "rec/a.wav")
    urls = {
        "memory": "memory://rec/a.wav",
        "file": f"file://{path}",
        "zip": f"zip://rec/a.wav::file://{tmp_path}/all.zip",
    }
    with open_url(urls[scheme]) as file:
        file.seek(-1000, os.SEEK_END)
        assert file.read() == data[-1000:]
        file.seek(0)
        assert file.read(1000) == data[:1000]
    size, mtime_ns = file_fingerprint(urls[scheme])
    assert size == len(data)
    if scheme == "memory":
        assert abs(mtime_ns - path.stat().st_mtime_ns) < 60e9
    elif scheme == "file":
        assert abs(mtime_ns - path.stat().st_mtime_ns) < 1000


def test_what_can_not_be_opened_is_told_in_a_line(web, memory, tmp_path):
    memory.pipe("/empty.wav", b"")
    web.files.update({"/empty.wav": b"", "/norange.wav": b"RIFF" * 1000})
    assert open_failure("memory://gone.wav") == ("missing", "no such file")
    assert open_failure("memory://empty.wav") == ("empty", "is empty (0 bytes)")
    assert open_failure(f"file://{tmp_path}") == ("unreadable", "is a folder")
    assert open_failure("file:///gone/a.wav") == ("missing", "no such file")
    assert open_failure(f"{web.url}/gone.wav") == ("missing", "no such file")
    assert open_failure(f"{web.url}/empty.wav") == ("empty", "is empty (0 bytes)")
    assert open_failure(f"{web.url}/forbidden.wav") == ("unreadable", "its server answers 403 Forbidden")
    status, reason = open_failure(f"{web.url}/norange.wav")
    assert (status, "download it" in reason) == ("unreadable", True)
    status, reason = open_failure("htps://x.org/a.wav")
    assert (status, "htps" in reason) == ("unreadable", True)


def test_a_server_that_is_not_there_is_unreadable_and_not_missing(web):
    web.shutdown()
    web.server_close()
    status, reason = open_failure(f"{web.url}/a.wav")
    assert status == "unreadable"
    assert "onnect" in reason


def test_a_connection_that_breaks_is_an_error_and_not_an_end(web, wav_bytes):
    data, _ = wav_bytes
    web.files["/breaks.wav"] = data
    with open_url(f"{web.url}/breaks.wav") as file:
        assert file.read(1 << 20) == data[: 1 << 20]
        with pytest.raises(Exception, match="payload"):
            file.read()


def test_a_server_that_stops_sending_is_given_up(web, wav_bytes, monkeypatch):
    monkeypatch.setattr(remote, "_TIMEOUT_S", 0.3)
    web.files["/stalls.wav"] = wav_bytes[0]
    with open_url(f"{web.url}/stalls.wav") as file, pytest.raises(Exception, match=r"(?i)timeout|^$"):
        file.read(1000)


def test_fingerprints_tell_whether_a_file_has_changed(tmp_path, web, memory):
    memory.pipe("/a.wav", b"123")
    before = file_fingerprint("memory://a.wav")
    memory.pipe("/a.wav", b"321")
    after = file_fingerprint("memory://a.wav")
    assert before[0] == after[0] == 3
    assert before[1] < after[1]
    path = tmp_path / "a.wav"
    path.write_bytes(b"12345")
    os.utime(path, ns=(1, 1683703800_123456789))
    assert file_fingerprint(path) == file_fingerprint(str(path)) == (5, 1683703800_123456789)
    for name in (tmp_path / "gone", "a\0b", "memory://gone", f"{web.url}/gone.wav", "htps://x.org/a.wav"):
        assert file_fingerprint(name) == (-1, -1)


@pytest.fixture(params=["memory", "file", "zip"])
def stored_tree(request, tree, memory):
    """The same files as `tree` behind a URL: what comes before and after their paths."""
    if request.param == "file":
        (tree / "s3").unlink()
        return f"file://{tree}/", ""
    files = [x for x in tree.glob("**/*") if x.is_file() and "s3" not in x.parts]
    if request.param == "memory":
        for path in files:
            memory.pipe(f"/top/{path.relative_to(tree)}", b"x")
        return "memory://top/", ""
    with zipfile.ZipFile(tree / "all.zip", "w") as archive:
        for path in files:
            archive.write(path, path.relative_to(tree))
    return "zip://", f"::file://{tree}/all.zip"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s1/", ["s1/top.wav", "s1/2023/a.wav", "s1/2024/c.wav"]),
        ("s1/2023/*", ["s1/2023/a.wav", "s1/2023/b.dat"]),
        ("s?/2023/[ad].wav", ["s1/2023/a.wav", "s2/2023/d.wav"]),
        ("s[12]/", ["s1/top.wav", "s1/2023/a.wav", "s1/2024/c.wav", "s2/2023/d.wav"]),
        (
            "**/*.wav",
            ["f.wav", "other/2023/e.wav", "s1/top.wav", "s1/2023/a.wav", "s1/2024/c.wav", "s2/2023/d.wav"],
        ),
        ("s1/*/", ["s1/2023/a.wav", "s1/2024/c.wav"]),
        ("s1/top.wav", ["s1/top.wav"]),
        ("gone.wav", ["gone.wav"]),  # the manifest tells
    ],
)
def test_folders_and_globs_at_urls(stored_tree, path, expected):
    before, after = stored_tree
    found = inputs(before + path + after, on_problem=lambda *_: None)
    assert found == [before + x + after for x in expected]
    if path != "gone.wav":
        with open_url(found[0]) as file:
            assert file.read() == b"x"


def test_folders_at_urls_are_read_as_they_are_reached(memory):
    for name in ("1.wav", "a/2.wav", "b/3.wav"):
        memory.pipe(f"/top/{name}", b"x")
    problems = []
    found = find_inputs(["memory://top/"], None, lambda *x: problems.append(x))
    assert next(found) == "memory://top/1.wav"
    memory.pipe("/top/b/late.wav", b"x")
    memory.rm("/top/a", recursive=True)
    assert list(found) == ["memory://top/b/3.wav", "memory://top/b/late.wav"]
    assert problems == [("memory://top/a", "can't be listed (No such file or directory)")]


def test_urls_that_hold_nothing_are_refused(memory, web):
    memory.pipe("/top/notes.txt", b"x")
    problems = []
    urls = ["memory://top/", "memory://top/*.wav", "memory://gone/"]
    message = refused(*urls, on_problem=lambda *x: problems.append(x[0]))
    assert message.endswith(", ".join(map(repr, urls)))
    assert problems == ["memory://gone/"]
    for url in (f"{web.url}/rec/", f"{web.url}/*.wav", "https://x.org"):
        assert f"web servers don't list files: URLs must name one each. Received: {url!r}" == refused(url)
    assert "htps" in refused("htps://x.org/a.wav")
    assert web.requests == []


@pytest.mark.parametrize(
    ("module", "url"), [("fsspec", "memory://a.wav"), ("s3fs", "s3://bucket/a.wav"), ("gcsfs", "gs://b/a/")]
)
def test_a_missing_package_is_told_with_what_to_install(monkeypatch, module, url):
    monkeypatch.setitem(sys.modules, module, None)
    assert "pip install 'keras-birds[remote]'" in refused(url, kind=ConfigError)
    for call in (open_url, file_fingerprint):
        with pytest.raises(ConfigError, match=r"pip install 'keras-birds\[remote\]'") as caught:
            call(url)
        assert "\n" not in str(caught.value)


def test_urls_are_scored_and_broken_ones_are_no_partial_recordings(
    run_command, placeholder_run, web, memory, wav_bytes, write_tone, tmp_path
):
    local = write_tone("tone.flac", 1200.0, seconds=9, rate=44_100, channels=2)
    web.files.update(
        {"/a/tone.flac": local.read_bytes(), "/breaks.wav": wav_bytes[0], "/stub.ogg": b"OggS" * 9}
    )
    memory.pipe("/disk/P1_20250601_120000.flac", local.read_bytes())
    names = [f"{web.url}/{x}" for x in ("a/tone.flac", "breaks.wav", "gone.wav", "forbidden.wav", "stub.ogg")]
    command = (
        "detect",
        local,
        *names,
        "memory://disk/",
        "--model",
        placeholder_run,
        "--out",
        tmp_path / "out",
    )
    code, _, err = run_command(*command)
    assert code == 1
    with (tmp_path / "out" / "manifest.csv").open() as file:
        manifest = {x["file"]: x for x in csv.DictReader(file)}
    statuses = [manifest[x]["status"] for x in (str(local), *names)]
    assert statuses == ["ok", "ok", "unreadable", "missing", "unreadable", "corrupt"], err
    assert "can no longer be read" in manifest[names[1]]["reason"]
    stored = manifest["memory://disk/P1_20250601_120000.flac"]
    assert [x["detections"] for x in (manifest[names[0]], stored)] == [manifest[str(local)]["detections"]] * 2
    code, _, err = run_command(*command)
    assert "3 scored before" in err
