"""The folder of results: shards, journal and manifest."""

import csv
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from keras_birds.errors import ConfigError, DataError, KerasBirdsError
from keras_birds.inference.scorer import RecordingScores, RecordingStatus
from keras_birds.labels import LabelSet
from keras_birds.results import sink
from keras_birds.results.detections import DetectionRules
from keras_birds.results.journal import JOURNAL
from keras_birds.results.parts import join_parts
from keras_birds.results.results import MANIFEST_COLUMNS, Results, read_detections

LABELS = LabelSet(["a", "b"])
SETTINGS = {"model_id": "m", "overlap_s": 0.0, "thresholds": 0.25}


def found(name, windows=3, score=0.5, mtime_ns=1, status="ok", reason=""):
    """A recording whose first label is detected in every window."""
    start_s = np.arange(windows) * 5.0
    scores = np.full((windows, 2), [score, 0.1], np.float32)
    length = {"seconds": 5.0 * windows, "windows": windows}
    recording = RecordingStatus(name, status, reason, **length, size_bytes=100, mtime_ns=mtime_ns)
    return RecordingScores(recording, start_s, start_s + 5, np.zeros(windows, np.int16), scores)


def failed(name):
    return found(name, 0, status="corrupt", reason="is not audio")


def open_results(folder, *recordings, settings=SETTINGS):
    """The folder, with recordings added."""
    results = Results(folder, LABELS, "m", DetectionRules.of(LABELS), settings, keep_scores=True)
    for x in recordings:
        results.add(x)
    return results


def contents(folder):
    """File to its detections' scores, read beside a process that may be at work."""
    return {
        x.file: [round(score, 3) for batch in rows for score in batch["score"].to_pylist()]
        for x, rows in read_detections(folder)
    }


def shards(folder, kind="detections"):
    return sorted(x.name for x in (folder / kind).iterdir())


def test_a_recording_that_fails_after_some_of_its_parts_leaves_nothing_new(tmp_path):
    first, lost = replace(found("b.wav"), is_last=False), RecordingStatus("b.wav", "unreadable", "no disk")
    with open_results(tmp_path / "out", found("a.wav")) as results:
        assert results.add(first) is None
        assert results.add(failed("b.wav")).failed
        results.add(first)
        assert results.add(found("b.wav", 1)).detections == 4
        results.flush()
        results.add(first)
        assert results.add(replace(failed("b.wav"), recording=lost)).not_seen == "no disk"
        results.add(found("d.wav", 1))
        results.finish()
    assert contents(tmp_path / "out") == {"a.wav": [0.5] * 3, "b.wav": [0.5] * 4, "d.wav": [0.5]}


def test_what_was_written_is_read_back_and_the_manifest_has_a_row_for_every_recording(tmp_path):
    out, names = tmp_path / "out", {"x.wav": 2, "y.wav": 0, os.fsdecode(b"caf\xe9,\n.wav"): 1}
    with open_results(out) as results:
        for name, windows in names.items():
            assert results.add(found(name, windows)).detections == windows
        results.add(failed("bad.wav"))
        manifest = results.finish()
        kept = {x.file: next(rows, None) for x, rows in results.read("scores")}
        assert kept["x.wav"].schema.names == ["file", "channel", "start_s", "end_s", "a", "b"]
        np.testing.assert_allclose(kept["x.wav"]["b"].to_pylist(), [0.1, 0.1], atol=1e-4)
        assert [sum(map(len, rows)) for _, rows in results.read("summary")] == [1, 0, 1]
    assert contents(out) == {x: [0.5] * windows for x, windows in names.items()}
    files = pq.read_table(out / "detections")["file"].to_pylist()
    assert files == ["x.wav", "x.wav", "caf\\udce9,\n.wav"]
    with manifest.open(newline="", errors="surrogateescape") as file:
        header, *rows = csv.reader(file)
    assert header == list(MANIFEST_COLUMNS)
    none = (*[""] * 11, *"000", "")  # where and when, week, unlikely, voices, not_seen
    told = ("bad.wav", "corrupt", "is not audio", "0.000", "")
    assert rows.pop() == [*told, *"000", "0.000", "0.000", "0", *none]
    for row, (name, n) in zip(rows, names.items(), strict=True):
        length = f"{5 * n}.000"
        assert row == [name, "ok", "", length, "", *"00", str(n), length, "0.000", str(n), *none]


def test_recordings_are_to_do_that_are_new_or_changed_or_failed(tmp_path):
    x, bad, new = (str(tmp_path / f"{name}.wav") for name in ("x", "bad", "new"))
    for path in map(Path, (x, bad, new)):
        path.write_bytes(bytes(100))
        os.utime(path, ns=(5, 5))
    with open_results(tmp_path / "out", found(x, mtime_ns=5), failed(bad)):
        pass
    with open_results(tmp_path / "out") as results:
        assert list(results.to_do([x, bad, new])) == [bad, new]
        assert results.done_before == 1
        os.utime(x, ns=(5, 6))
        assert list(results.to_do([x])) == [x]


@pytest.mark.parametrize("is_killed", [False, True])
def test_rows_of_a_recording_that_was_scored_again_are_replaced_everywhere(tmp_path, monkeypatch, is_killed):
    out = tmp_path / "out"
    with open_results(out, found("x.wav"), found("y.wav"), found("z.wav")):
        pass
    again = found("x.wav", 1, 0.9, mtime_ns=2), failed("y.wav"), found("new.wav", 1)
    with open_results(out, *again) as results:
        results.flush()
        assert contents(out) == {"z.wav": [0.5] * 3, "x.wav": [0.9], "new.wav": [0.5]}
        if is_killed:  # while outdated rows are dropped
            monkeypatch.setattr(results, "_remove_unlisted", lambda: sys.exit("killed"))
            with pytest.raises(SystemExit):
                results.finish()
        else:
            results.finish()
    with open_results(out):
        pass
    # Whoever opens the folder of shards sees the same rows.
    for kind, rows in (("detections", 5), ("scores", 5), ("summary", 3)):
        assert pq.read_table(out / kind).num_rows == rows
    assert contents(out) == {"x.wav": [0.9], "new.wav": [0.5], "z.wav": [0.5] * 3}


def test_a_kill_between_shard_and_journal_or_in_the_middle_of_a_write_leaves_nothing_wrong(tmp_path):
    out = tmp_path / "out"
    with suppress(KeyboardInterrupt), open_results(out, found("x.wav")) as results:
        results.flush()
        before = (out / JOURNAL).read_bytes()
        results.add(found("y.wav"))
        raise KeyboardInterrupt
    assert contents(out) == {"x.wav": [0.5] * 3, "y.wav": [0.5] * 3}
    whole = (out / JOURNAL).read_bytes()
    for cut in (len(before), len(before) + 1, len(whole) - 1):
        copy = shutil.copytree(out, tmp_path / f"cut{cut}")
        (copy / JOURNAL).write_bytes(whole[:cut])
        (copy / "detections" / ".000003.parquet.4711.tmp").write_bytes(b"half")
        (copy / ".manifest.csv.4711.tmp").write_bytes(b"half")
        names = sorted(copy.rglob("*"))
        assert contents(copy) == {"x.wav": [0.5] * 3}
        assert sorted(copy.rglob("*")) == names
        with open_results(copy) as results:
            assert list(results.to_do(["y.wav"])) == ["y.wav"]
            assert shards(copy) == shards(copy, "scores") == ["000001.parquet"]
            results.add(found("y.wav"))
            results.finish()
        assert contents(copy) == {"x.wav": [0.5] * 3, "y.wav": [0.5] * 3}
        assert not list(copy.rglob("*.tmp"))


def test_shards_end_by_size_and_by_time(tmp_path, monkeypatch):
    monkeypatch.setattr(sink, "SHARD_BYTES", 2000)
    with open_results(tmp_path / "out", *(found(f"{k}.wav", 10) for k in range(20))):
        assert len(shards(tmp_path / "out")) > 5
    monkeypatch.setattr(sink, "_SHARD_S", 0.0)
    with open_results(tmp_path / "other", *(found(f"{k}.wav") for k in range(3))):
        assert len(shards(tmp_path / "other")) == 3


def test_what_is_no_folder_of_these_results_is_refused_and_left_as_it_is(tmp_path):
    out, journal = tmp_path / "out", tmp_path / "out" / JOURNAL
    with open_results(out, found("x.wav")), pytest.raises(KerasBirdsError, match="one process at a time"):
        open_results(out)
    with pytest.raises(ConfigError, match=r"overlap_s is 2\.5, was 0\.0; merge is true, was null\. Choose"):
        open_results(out, settings={**SETTINGS, "overlap_s": 2.5, "merge": True})
    (tmp_path / "thesis.txt").write_text("keep")
    with pytest.raises(ConfigError, match="--out must be a new or empty folder"):
        open_results(tmp_path / "thesis.txt")
    whole = journal.read_text()
    for text, said in (
        (whole.replace('"recording"', '"outcom"'), r"journal\.jsonl: line 2 must be an entry"),
        (whole.replace("{", "[", 1), r"journal\.jsonl: line 1 must be an entry"),
        ("", "must begin with its settings"),
        ('{"format_version": 7, "settings": {}}\n', r"format_version must be 3\. Received: 7"),
    ):
        journal.write_text(text)
        with pytest.raises(KerasBirdsError, match=said):
            open_results(out)
    journal.write_text(whole)
    assert contents(out) == {"x.wav": [0.5] * 3}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_is_an_error_and_the_journal_stays_whole(tmp_path):
    with open_results(tmp_path / "out", found("x.wav")):
        pass
    results = open_results(tmp_path / "out", found("y.wav"))
    results._journal._file.close()
    results._journal._file = open("/dev/full", "wb", buffering=0)  # noqa: PTH123, SIM115
    with pytest.raises(KerasBirdsError, match=r"can't be written.*No space left"):
        results.__exit__(None, None, None)
    assert contents(tmp_path / "out") == {"x.wav": [0.5] * 3}


def test_parts_that_jobs_wrote_side_by_side_are_joined_as_if_one_had(tmp_path):
    folders = [tmp_path / "parts" / x for x in "ab"]
    for folder, recordings in zip(
        folders, ((found("a.wav"), failed("x.wav")), (found("b.wav", 1, 0.75), found("c.wav"))), strict=True
    ):
        with open_results(folder, *recordings) as results:
            results.flush()
            results.add(found("d.wav", 2, mtime_ns=2))  # of both parts, in a shard of its own
            results.finish()
    out = tmp_path / "joined"
    assert join_parts(folders, out) == 5
    assert contents(out) == {"a.wav": [0.5] * 3, "b.wav": [0.75], "c.wav": [0.5] * 3, "d.wav": [0.5] * 2}
    with open_results(out) as results:
        assert list(results.to_do(["x.wav", "e.wav"])) == ["x.wav", "e.wav"]
        results.finish()  # drops the rows of d.wav that don't count
    assert sum(len(pq.read_table(x)) for x in out.glob("detections/*")) == 9
    with open_results(tmp_path / "parts" / "c", settings={**SETTINGS, "overlap_s": 2.5}):
        pass
    for parts, target, error, said in (
        (folders, out, ConfigError, "which exists"),
        ([], tmp_path / "new", DataError, "Received: none"),
        ([folders[0], tmp_path / "parts" / "c"], tmp_path / "new", DataError, "another overlap_s than"),
        ([tmp_path / "gone"], tmp_path / "new", DataError, "must be a folder that"),
    ):
        with pytest.raises(error, match=said):
            join_parts(parts, target)
        assert not (tmp_path / "new").exists()
