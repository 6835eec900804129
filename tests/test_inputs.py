import io
import os
import re
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pandas as pd
import pytest
from sounds import encoded, noise, touch

from keras_birds.audio import remote
from keras_birds.audio.files import find_inputs, recordings_in
from keras_birds.audio.reader import Reader
from keras_birds.audio.remote import file_fingerprint, is_url, open_url, url_path
from keras_birds.errors import AudioError, ConfigError, DataError

ODD_NAMES = ["[a]*?.wav", 'it\'s "so".wav', "line\nbreak.wav", "tab\t .wav", "горихвостка 栗林.wav"]
if sys.platform == "linux":
    ODD_NAMES.append(os.fsdecode(b"\xe9.wav"))  # not UTF-8
GONE = "(No such file or directory)"
WAV = encoded(noise(115))  # 7 MiB


def inputs(*arguments, stdin=None):
    """The names found, then the problems told, each a pair."""
    told = []
    found = find_inputs([str(x) for x in arguments], stdin and io.BytesIO(stdin), lambda *x: told.append(x))
    return [*found, *told]


def refused(*arguments, stdin=None):
    """The one-line error, which comes before the first name is asked for, and the problems told before."""
    told = []
    with pytest.raises(DataError, match=r"\A[^\n]*\Z") as caught:
        find_inputs(arguments, stdin and io.BytesIO(stdin), lambda *x: told.append(" ".join(x)))
    return "; ".join([str(caught.value), *told])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_gives_its_recordings_folder_by_folder_and_names_what_else_is_there(here, caplog):
    own, links = ["a.flac", "b.WAV", "c.wav", "d.3gp", "e.amr", "f.mka", "g.mov"], ["m.wav", "n.wav"]
    below = ["c/3.mp3", *(f"odd/{x}" for x in ODD_NAMES), "z/1.ogg", "z/y/2.ogg"]
    others = [".hidden.wav", ".trash/x.wav", "._a.wav", "t.csv", "t.json", "README", "n.TXT", "odd/1.dat"]
    touch(here, "elsewhere/y.wav", *(f"rec/{x}" for x in (*own, *below, *others)))
    for link, target in {"link": "elsewhere", "m.wav": "gone", "n.wav": "rec/n.wav"}.items():
        (here / "rec" / link).symlink_to(here / target)
    found = [f"rec/{x}" for x in (*own, *links, *below)]
    assert recordings_in(Path("rec")) == found
    assert "'rec' holds 1 file of unknown kind, left out: 'rec/odd/1.dat'; name those that are" in caplog.text
    touch(here, "rec/odd/2.zip", "rec/odd/3", "rec/odd/4.wav.part")
    named = "'rec/odd/1.dat', 'rec/odd/2.zip', 'rec/odd/3' and 1 more"
    reason = f"holds 4 files of unknown kind, left out: {named}; name those that are sound"
    assert inputs("rec") == [*found, ("rec", reason)]


@pytest.mark.skipif(sys.platform == "win32", reason="has no such rights")
def test_a_forbidden_folder_is_told(here):
    touch(here, "rec/1.wav", "rec/a/2.wav", "rec/b/3.wav", "closed/4.wav")
    here.chmod(0o755)
    for name in ("rec/a", "closed", "rec/1.wav"):
        (here / name).chmod(0)
    reason, user = "can't be listed (Permission denied)", os.geteuid()
    try:
        os.seteuid(user or 65534)  # root gives its rights up
        assert inputs("rec") == ["rec/1.wav", "rec/b/3.wav", ("rec/a", reason)]
        assert "'closed/4.wav' (Permission denied)" in refused("rec", "closed/4.wav")
        assert refused("closed").endswith(f"'closed'; closed {reason}")
        with pytest.raises(AudioError, match=": Permission denied"):
            Reader("rec/1.wav")
    finally:
        os.seteuid(user)


def test_each_recording_comes_once_under_its_first_name_and_a_file_of_exactly_a_globs_name_wins(here):
    touch(here, "rec/a.wav", "rec/b.wav", "[ab].wav", "a.wav", "[cd].wav/e.wav", "c.wav", *ODD_NAMES)
    arguments = ("./rec/b.wav", "rec", here / "rec", "rec/", "rec/*.wav", "rec/b.wav")
    assert inputs(*arguments) == ["./rec/b.wav", "rec/a.wav"]
    listed = b"rec/b.wav\nrec//a.wav\nrec/a.wav\ngone.wav\n./gone.wav\n"
    assert inputs("-", stdin=listed) == ["rec/b.wav", "rec//a.wav", "gone.wav"]
    assert inputs() == []
    for name, found in {"[ab].wav": "[ab].wav", "[cd].wav": "[cd].wav/e.wav", "[a].wav": "a.wav"}.items():
        assert inputs(name) == [found]
    assert inputs(*ODD_NAMES) == ODD_NAMES


def test_what_is_gone_or_empty_is_named_all_at_once_or_gone_without(here):
    touch(here, "a.wav", "rec/b.wav", "empty/notes.txt", "deep/x/.hidden.wav")
    stdin = io.BytesIO(b"a.wav\n")
    received = f"'gone' {GONE}, 'line\\nbreak' {GONE}, '' {GONE}, 'a.wav/b' (Not a directory)"
    with pytest.raises(DataError, match=re.escape(f"Received: {received}") + "$"):
        find_inputs(["a.wav", "gone", "-", "rec", "line\nbreak", "", "a.wav/b"], stdin, None)
    assert stdin.tell() == 0
    message = refused("a.wav", "empty", "deep", "*.flac", "gone/**/*.wav")
    assert message.endswith("Received none in: 'empty', 'deep', '*.flac', 'gone/**/*.wav'")
    gone, arguments, empty = [], ["gone", "a.wav", "empty", "*.flac"], "it holds no recordings"
    assert list(find_inputs(arguments, None, None, lambda *x: gone.append(": ".join(x)))) == ["a.wav"]
    assert gone == ["gone: No such file or directory", f"empty: {empty}", f"*.flac: {empty}"]


@pytest.fixture
def tree(here):
    touch(here, "s1/2023/a.wav", "s1/2023/b.dat", "s1/2024/c.wav", "s1/top.wav", "s1/.x/h.wav", "s1/.h.wav")
    touch(here, "s2/2023/d.wav", "s2/2023/notes.txt", "other/2023/e.wav", "f.wav")
    (here / "s3").symlink_to(here / "other")
    return here


S1 = "s1/top.wav s1/2023/a.wav s1/2024/c.wav"
GLOBS = {
    "s1/2023/*": "s1/2023/a.wav s1/2023/b.dat",  # what matches is named, so it may be called anything
    "s[12]": f"{S1} s2/2023/d.wav",  # folders as they are read
    "**/*.wav": f"f.wav other/2023/e.wav {S1} s2/2023/d.wav",
    "s?/2023/[ad].wav": "s1/2023/a.wav s2/2023/d.wav",
    "s1/*/": "s1/2023/a.wav s1/2024/c.wav",
}
LOCAL_GLOBS = {
    "*.wav": "f.wav",
    "*/2023/*.wav": "other/2023/e.wav s1/2023/a.wav s2/2023/d.wav s3/2023/e.wav",
    "s1/**": S1,
    "s1/**/2023/*.wav": "s1/2023/a.wav",
    "**/2023/**/*.dat": "s1/2023/b.dat",
    "s1/**/**/t*": "s1/top.wav",
    "s1/.*": "s1/.h.wav s1/.x/h.wav",
    "s1/../s2/*/d.wav": "s1/../s2/2023/d.wav",
    "./s1/t*": "s1/top.wav",
}


@pytest.mark.parametrize(("pattern", "expected"), {**GLOBS, **LOCAL_GLOBS}.items())
def test_globs(tree, pattern, expected):
    for before in ("", f"{tree}/"):
        found = [x for x in inputs(before + pattern) if isinstance(x, str)]
        assert found == [str(tree / x) if before else x for x in expected.split()]


NO_NAME = [("list.csv", f"its line {k} names no recording") for k in (3, 4)]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        # The first column known, upper or lower case.
        ("list.CSV", b"x,path,y\r\nno,a b.wav,no\r\n\r\n", ["a b.wav"]),
        ("list.csv", b"filename\na b.wav", ["a b.wav"]),
        ("list.csv", b"path,file,filename\nno,a b.wav,no\n", ["a b.wav"]),
        ("list.csv", b"Filename,PATH,x\nno,a b.wav,no\n", ["a b.wav"]),
        ("list.csv", b"\xef\xbb\xbffile,x\na b.wav,no\n", ["a b.wav"]),
        ("list.csv", b"x,file\n1,\xe9.wav\n2\n3,\n\n4,b.wav\n", ["\udce9.wav", "b.wav", *NO_NAME]),
        ("list.csv", b"name,x\na.wav,x\n", "file or path or filename. Received in 'list.csv': 'name', 'x'"),
        ("list.csv", b"file;species\na.wav;x\n", "'file;species'"),
        ("list.csv", b"", "an empty file"),
        ("list.csv", b"file,x\n", "Received none in: 'list.csv'"),
        ("list.csv", b'file\n"a.wav\nb.wav\n', "a CSV. Received in line 3: unexpected end of data"),
        ("-", b"\xef\xbb\xbf\r\na.wav\r\n\r\nb.wav\r\n", ["a.wav", "b.wav"]),
        ("-", b"\xe9.wav\n'\xe6\xa0\x97'.wav", ["\udce9.wav", "'栗'.wav"]),
        ("-", b" a.wav \n*.wav\ns3://x/y.wav\n", [" a.wav ", "*.wav", "s3://x/y.wav"]),
        ("-", b"a\nb.wav\0c.wav\r\0\0d.wav\0", ["a\nb.wav", "c.wav\r", "d.wav"]),
        ("-", b"a.wav\0b.wav", ["a.wav", "b.wav"]),
        ("-", None, "no stdin"),
        ("-", b"\n\n", "hold recordings. Received none in: '-'"),
        ("-", "a.wav".encode("utf-16"), "Received: UTF-16"),
    ],
)
def test_a_list_names_recordings_or_is_refused(here, name, content, expected):
    if name != "-":
        touch(here, name, content=content)
    if isinstance(expected, str):
        assert expected in refused(name, stdin=content)
    else:
        assert inputs(name, stdin=content) == expected


def test_names_in_a_csv_count_from_its_folder_else_from_here_and_a_long_list_is_read_bit_by_bit(here):
    touch(here, "lists/both.wav", "both.wav", "here.wav", "far/abs.wav", "lists/folder/x.wav")
    names = ["here.wav", "gone.wav", str(here / "far/abs.wav"), "s3://bucket/a b.wav", "*.wav"]
    touch(here, "lists/list.csv", content="\n".join(["file", "both.wav", *names, "folder"]).encode())
    assert inputs("lists/list.csv") == ["lists/both.wav", *names, "lists/folder"]
    names = [f"{i:05d}/{'x' * (i % 97)}.wav" for i in range(5000)]  # come whole, and as they are read
    for separator in (b"\n", b"\0"):
        stdin = io.BytesIO(separator.join(x.encode() for x in names))
        found = find_inputs(["-", "-"], stdin, None)
        assert stdin.tell() < len(stdin.getvalue()) / 3
        assert list(found) == names


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files` with ranges; some names are special."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = self.path.partition("?")[0]
        kind = re.match(r"/(\w*)", name)[1]
        wanted = None if kind == "norange" else self.headers.get("Range")
        self.server.requests.append(wanted)
        if name not in self.server.files:
            return self.send_error({"forbidden": 403, "removed": 410}.get(kind, 404))
        data = self.server.files[name]
        first, last = map(int, re.findall(r"\d+", wanted)) if wanted else (0, len(data) - 1)
        part = data[first : last + 1]

        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Last-Modified", "Wed, 10 May 2023 07:30:00 GMT")
        self.send_header("Accept-Ranges", "none" if kind == "norange" else "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        self.end_headers()
        self.close_connection = kind == "breaks" and first > 0
        if self.command == "GET":
            self.wfile.write(part[: len(part) // 2] if self.close_connection or kind == "stalls" else part)

            if kind == "stalls":
                self.server.released.wait(60)
        return None

    do_HEAD = do_GET


@pytest.fixture
def web():
    """A web server on this machine, `.url` ends without a slash."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.requests, server.released = {}, [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.released.set()
        server.shutdown()


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def test_urls_are_no_paths_and_refused_if_they_hold_nothing_or_lack_a_package(memory, web, monkeypatch):
    for name in ("s3://b/a.wav", "https://x.org/a?b=*", "zip://a.wav::s3://b/c.zip", "simplecache::gs://b/a"):
        assert is_url(name)
        assert not is_url(Path(name))
    for name in ("/data/a.wav", "C:\\a.wav", "C://a.wav", "s3:/b/a.wav", "x/http://a.wav", "", "-", "://"):
        assert not is_url(name)
    assert url_path("https://localhost:80/a/b%20c.wav?x=1/2") == "/a/b c.wav"
    assert url_path("s3://bucket/a%20b#?.wav") == "bucket/a%20b#?.wav"
    memory.pipe("/top/notes.txt", b"x")
    urls = "'memory://top/', 'memory://top/*.wav', 'memory://gone/'"
    message = refused(*re.findall("'(.*?)'", urls))
    assert message.endswith(f"{urls}; memory://gone/ can't be listed {GONE}")
    for url in (f"{web.url}/rec/", f"{web.url}/*.wav", "https://x.org"):
        assert refused(url) == f"web servers don't list files: URLs must name one each. Received: {url!r}"
    assert "htps" in refused("htps://x.org/a.wav")
    assert web.requests == []
    for module, url in (("fsspec", "memory://a.wav"), ("s3fs", "s3://bucket/a.wav"), ("gcsfs", "gs://b/a/")):
        monkeypatch.setitem(sys.modules, module, None)
        for call in (open_url, file_fingerprint, inputs):
            with pytest.raises(ConfigError, match=r"^.*pip install 'keras-birds\[remote\]'$"):
                call(url)
        monkeypatch.undo()


def test_a_file_is_read_in_parts_and_its_changes_told_on_any_file_system(tmp_path, web, memory):
    data, path = WAV, tmp_path / "a 'b'\n栗.wav"
    path.write_bytes(data)
    os.utime(path, ns=(1, 1683703800_123456789))
    memory.pipe("/rec/a.wav", data)
    web.files["/rec/a%20b.wav"] = data
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(path, "rec/a.wav")
    zipped, on_web = f"zip://rec/a.wav::file://{tmp_path}/all.zip", f"{web.url}/rec/a%20b.wav?when=2023"
    assert inputs(on_web) == [on_web]
    assert web.requests == []
    for url in ("memory://rec/a.wav", f"file://{path}", zipped, on_web):
        with open_url(url) as file:
            file.seek(-1000, os.SEEK_END)
            assert file.read() == data[-1000:]
            file.seek(0)
            assert b"".join(iter(lambda file=file: file.read(1 << 16), b"")) == data
        assert file_fingerprint(url)[0] == len(data)
    ranges = [[int(k) for k in re.findall(r"\d+", x)] for x in web.requests if x]
    assert len(ranges) >= 4
    assert max(last - first for first, last in ranges) < 1.5 * (2 << 20)  # a block ahead of what was asked
    assert file_fingerprint(on_web) == (len(data), 1683703800 * 10**9)
    exact = (len(data), 1683703800_123456789)
    assert file_fingerprint(path) == file_fingerprint(str(path)) == exact
    assert file_fingerprint(f"file://{path}")[1] == pytest.approx(exact[1], abs=1000)
    before_ns = file_fingerprint("memory://rec/a.wav")[1]
    assert abs(before_ns / 1e9 - time.time()) < 60
    memory.pipe("/rec/a.wav", data[::-1])
    assert file_fingerprint("memory://rec/a.wav")[1] > before_ns
    for name in (tmp_path / "gone", "a\0b", "memory://gone", f"{web.url}/gone.wav", "htps://x.org/a.wav"):
        assert file_fingerprint(name) == (-1, -1)


def test_what_cannot_be_opened_is_told_in_a_line_a_broken_read_is_no_end(web, memory, tmp_path, monkeypatch):
    memory.pipe("/empty.wav", b"")
    web.files.update(dict.fromkeys(("/norange.wav", "/breaks.wav", "/stalls.wav"), WAV) | {"/empty.wav": b""})
    gone, empty = "missing: no such file", r"empty: is empty \(0 bytes\)"
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        pass
    for url, told in {
        "memory://gone.wav": gone,
        "memory://empty.wav": empty,
        f"file://{tmp_path}": "unreadable: is a folder",
        "file:///gone/a.wav": gone,
        f"{web.url}/gone.wav": gone,
        f"{web.url}/removed.wav": gone,
        f"{web.url}/empty.wav": empty,
        f"{web.url}/forbidden.wav": "unreadable: its server answers 403 Forbidden",
        f"{web.url}/norange.wav": "unreadable: its server has no random access: download it",
        "htps://x.org/a.wav": "unreadable: .*htps.*",
        f"http://127.0.0.1:{closed.server_port}/a.wav": "unreadable: .*onnect.*",
    }.items():
        with pytest.raises(AudioError) as caught:
            open_url(url)
        error = caught.value
        assert re.fullmatch(told, f"{error.status}: {error.reason}")
        assert (str(error), error.path) == (f"{url}: {error.reason}", url)
    with open_url(f"{web.url}/breaks.wav") as file:
        assert file.read(1 << 20) == WAV[: 1 << 20]
        with pytest.raises(Exception, match="payload"):
            file.read()
    monkeypatch.setattr(remote, "_TIMEOUT_S", 0.3)
    with open_url(f"{web.url}/stalls.wav") as file, pytest.raises(Exception, match=r"(?i)timeout|^$"):
        file.read(1000)


@pytest.mark.parametrize("scheme", ["memory", "file", "zip"])
def test_folders_and_globs_at_urls(tree, memory, scheme):
    (tree / "s3").unlink()
    files = [str(x.relative_to(tree)) for x in tree.glob("**/*") if x.is_file()]
    with zipfile.ZipFile(tree / "all.zip", "w") as archive:
        for name in files:
            memory.pipe(f"/top/{name}", (tree / name).read_bytes())
            archive.write(name)
    top, zipped = f"file://{tree}/", f"::file://{tree}/all.zip"
    before, after = {"memory": ("memory://top/", ""), "file": (top, ""), "zip": ("zip://", zipped)}[scheme]
    # A glob's folders end in a slash here; what is gone the manifest tells.
    urls = {**GLOBS, "s1/": S1, "s[12]/": GLOBS["s[12]"], "s1/top.wav": "s1/top.wav", "gone.wav": "gone.wav"}
    del urls["s[12]"]
    for path, expected in urls.items():
        found = [x for x in inputs(before + path + after) if isinstance(x, str)]
        assert found == [before + x + after for x in expected.split()]
        if path != "gone.wav":
            with open_url(found[0]) as file:
                assert file.read() == (tree / expected.split()[0]).read_bytes()


@pytest.mark.parametrize("pattern", ["", "**/*.wav"])
def test_folders_are_read_as_they_are_reached_and_those_that_go_are_told(memory, pattern):
    for name in ("1.wav", "a/2.wav", "b/3.wav"):
        memory.pipe(f"/top/{name}", b"x")
    told = []
    found = find_inputs([f"memory://top/{pattern}"], None, lambda *x: told.append(x))
    assert next(found) == "memory://top/1.wav"
    memory.pipe("/top/b/late.wav", b"x")
    memory.rm("/top/a", recursive=True)
    assert list(found) == ["memory://top/b/3.wav", "memory://top/b/late.wav"]
    assert told == [("memory://top/a", f"can't be listed {GONE}")]


def test_broken_urls_are_no_partial_files(run_command, placeholder_run, web, memory, write_tone, tmp_path):
    local = write_tone("tone.flac", 1200.0, seconds=9, rate=44_100, channels=2)
    content = local.read_bytes()
    web.files.update({"/a/tone.flac": content, "/breaks.wav": WAV, "/stub.ogg": b"OggS" * 9})
    memory.pipe("/disk/P1_20250601_120000.flac", content)
    names = [f"{web.url}/{x}" for x in ("breaks.wav", "gone.wav", "forbidden.wav", "stub.ogg", "a/tone.flac")]
    options = ("--model", placeholder_run, "--out", tmp_path / "out")
    command = ("detect", *names, local, "memory://disk/", *options)
    code, _, err = run_command(*command)
    assert code == 1
    found = pd.read_csv(tmp_path / "out" / "manifest.csv", index_col="file")
    found = found.loc[[*names, str(local), "memory://disk/P1_20250601_120000.flac"]]
    assert [*found["status"]] == ["unreadable", "missing", "unreadable", "corrupt", "ok", "ok", "ok"], err
    assert "can no longer be read" in found["reason"].iloc[0]
    assert found["detections"].iloc[4:].nunique() == 1
    code, _, err = run_command(*command)
    assert "3 scored before" in err
