"""The folder of results: shards, journal and manifest."""

import csv
import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from keras_birds.errors import ConfigError, KerasBirdsError
from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.inference.scorer import RecordingScores
from keras_birds.labels import LabelSet
from keras_birds.results import results as results_module
from keras_birds.results.detections import DetectionRules
from keras_birds.results.journal import JOURNAL
from keras_birds.results.results import Results

LABELS = LabelSet(["a", "b"])
SETTINGS = {"model_id": "m", "overlap_s": 0.0, "thresholds": 0.25}


def found(name, windows=3, score=0.5, mtime_ns=1):
    """A recording whose first label is detected in every window."""
    start_s = np.arange(windows) * 5.0
    scores = np.tile(np.float32([score, 0.1]), (windows, 1))
    recording = RecordingStatus(
        name, "ok", seconds=5.0 * windows, windows=windows, size_bytes=100, mtime_ns=mtime_ns
    )
    return RecordingScores(recording, start_s, start_s + 5, np.zeros(windows, np.int16), scores)


def failed(name, reason="is not audio"):
    empty = np.zeros(0)
    recording = RecordingStatus(name, "corrupt", reason, size_bytes=9, mtime_ns=1)
    return RecordingScores(recording, empty, empty, empty.astype(np.int16), np.zeros((0, 2), np.float32))


def open_results(folder, settings=SETTINGS, keep_scores=True):
    return Results(folder, LABELS, "m", DetectionRules.of(LABELS), settings, keep_scores)


def contents(results):
    """File to its detections' scores."""
    tables = {recording.file: rows.to_table() for recording, rows in results.read("detections")}
    return {file: [round(x, 3) for x in table["score"].to_pylist()] for file, table in tables.items()}


def shards(folder, kind="detections"):
    return sorted(x.name for x in (folder / kind).iterdir())


def test_what_was_written_is_read_back_a_recording_at_a_time(tmp_path):
    with open_results(tmp_path / "out") as results:
        for name, windows in (("x.wav", 2), ("y.wav", 0), ("z.wav", 1)):
            recording = results.add(found(name, windows))
            assert recording.detections == windows
        results.add(failed("bad.wav"))
        results.finish()
        assert contents(results) == {"x.wav": [0.5, 0.5], "y.wav": [], "z.wav": [0.5]}
        kept = {recording.file: rows.to_table() for recording, rows in results.read("scores")}
        assert kept["x.wav"].column_names == ["file", "channel", "start_s", "end_s", "a", "b"]
        np.testing.assert_allclose(kept["x.wav"]["b"].to_pylist(), [0.1, 0.1], atol=1e-4)
        assert [len(rows.to_table()) for _, rows in results.read("summary")] == [1, 0, 1]
    whole = pq.read_table(tmp_path / "out" / "detections")
    assert whole["file"].to_pylist() == ["x.wav", "x.wav", "z.wav"]


def test_the_manifest_has_a_row_for_every_recording(tmp_path):
    with open_results(tmp_path / "out") as results:
        results.add(found("x.wav"))
        results.add(failed("bad,\n.wav", "is not audio"))
        path = results.finish()
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(x["file"], x["status"], x["reason"], x["detections"]) for x in table] == [
        ("x.wav", "ok", "", "3"),
        ("bad,\n.wav", "corrupt", "is not audio", "0"),
    ]
    assert (table[0]["seconds"], table[0]["seconds_expected"], table[0]["windows"]) == ("15.000", "", "3")


def test_recordings_are_to_do_that_are_new_or_changed_or_failed(tmp_path):
    x, bad, new = (str(tmp_path / f"{name}.wav") for name in ("x", "bad", "new"))
    for path in (x, bad, new):
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(bytes(100))
        os.utime(path, ns=(5, 5))
    with open_results(tmp_path / "out") as results:
        assert list(results.to_do([x, bad])) == [x, bad]
        results.add(found(x, mtime_ns=5))
        results.add(failed(bad))
    with open_results(tmp_path / "out") as results:
        assert list(results.to_do([x, bad, new])) == [bad, new]
        assert results.done_before == 1
        os.utime(x, ns=(5, 6))
        assert list(results.to_do([x])) == [x]


def test_rows_of_a_recording_that_was_scored_again_are_replaced_everywhere(tmp_path):
    out = tmp_path / "out"
    with open_results(out) as results:
        for name in ("x.wav", "y.wav"):
            results.add(found(name))
    with open_results(out) as results:
        results.add(found("x.wav", 1, score=0.9, mtime_ns=2))
        results.add(failed("y.wav"))
        results.add(found("z.wav", 1))
        results.finish()
        assert contents(results) == {"x.wav": [0.9], "z.wav": [0.5]}
    # Whoever opens the folder of shards sees the same rows.
    for kind, rows in (("detections", 2), ("scores", 2), ("summary", 2)):
        assert pq.read_table(out / kind).num_rows == rows
    with open_results(out) as results:
        assert contents(results) == {"x.wav": [0.9], "z.wav": [0.5]}


def test_a_kill_between_shard_and_journal_or_in_the_middle_of_a_write_leaves_nothing_wrong(tmp_path):
    out = tmp_path / "out"
    with open_results(out) as results:
        results.add(found("x.wav"))
        results.flush()
        before = (out / JOURNAL).read_bytes()
        results.add(found("y.wav"))
    whole = (out / JOURNAL).read_bytes()
    for cut in (len(before), len(before) + 1, len(whole) - 1):
        copy = shutil.copytree(out, tmp_path / f"cut{cut}")
        (copy / JOURNAL).write_bytes(whole[:cut])
        (copy / "detections" / ".000003.parquet.4711.tmp").write_bytes(b"half")
        (copy / ".manifest.csv.4711.tmp").write_bytes(b"half")
        with open_results(copy) as results:
            assert contents(results) == {"x.wav": [0.5] * 3}
            assert list(results.to_do(["y.wav"])) == ["y.wav"]
            assert shards(copy) == shards(copy, "scores") == ["000001.parquet"]
            results.add(found("y.wav"))
            results.finish()
            assert contents(results) == {"x.wav": [0.5] * 3, "y.wav": [0.5] * 3}
        assert not list(copy.rglob("*.tmp"))


def test_a_kill_while_outdated_rows_are_dropped_loses_nothing(tmp_path, monkeypatch):
    out = tmp_path / "out"
    with open_results(out) as results:
        for name in ("x.wav", "y.wav"):
            results.add(found(name))
    with open_results(out) as results:
        results.add(found("x.wav", 1, mtime_ns=2))
        monkeypatch.setattr(
            results, "_remove_unlisted", lambda: (_ for _ in ()).throw(KerasBirdsError("killed"))
        )
        with pytest.raises(KerasBirdsError, match="killed"):
            results.finish()
    with open_results(out) as results:
        assert contents(results) == {"x.wav": [0.5], "y.wav": [0.5] * 3}
        assert pq.read_table(out / "detections").num_rows == 4


def test_ctrl_c_keeps_what_was_scored(tmp_path):
    def interrupted():
        with open_results(tmp_path / "out") as results:
            results.add(found("x.wav"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with open_results(tmp_path / "out") as results:
        assert contents(results) == {"x.wav": [0.5] * 3}


def test_shards_end_by_size_and_by_time(tmp_path, monkeypatch):
    monkeypatch.setattr(results_module, "_SHARD_BYTES", 2000)
    with open_results(tmp_path / "out") as results:
        for k in range(20):
            results.add(found(f"{k}.wav", 10))
        assert len(shards(tmp_path / "out")) > 5
    monkeypatch.setattr(results_module, "_SHARD_S", 0.0)
    with open_results(tmp_path / "other") as results:
        for k in range(3):
            results.add(found(f"{k}.wav"))
        assert len(shards(tmp_path / "other")) == 3


def test_other_settings_are_refused_with_their_names(tmp_path):
    with open_results(tmp_path / "out"):
        pass
    other = {**SETTINGS, "overlap_s": 2.5, "merge": True}
    with pytest.raises(
        ConfigError, match=r"overlap_s is 2\.5, was 0\.0; merge is true, was null\. Choose another"
    ):
        open_results(tmp_path / "out", other)


def test_a_folder_of_other_files_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "thesis.txt").write_text("keep")
    with pytest.raises(ConfigError, match="--out must be a new or empty folder"):
        open_results(tmp_path)
    assert [x.name for x in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_second_process_is_refused(tmp_path):
    with open_results(tmp_path / "out"), pytest.raises(KerasBirdsError, match="one process at a time"):
        open_results(tmp_path / "out")
    with open_results(tmp_path / "out"):
        pass


def test_a_damaged_journal_is_told_with_its_line(tmp_path):
    with open_results(tmp_path / "out") as results:
        results.add(found("x.wav"))
    path = tmp_path / "out" / JOURNAL
    path.write_text(path.read_text().replace('"recording"', '"outcom"'))
    with pytest.raises(KerasBirdsError, match=r"journal\.jsonl: line 2 must be an entry"):
        open_results(tmp_path / "out")
    path.write_text(json.dumps({"format_version": 7, "settings": SETTINGS}) + "\n")
    with pytest.raises(ConfigError, match=r"format_version must be 1\. Received: 7"):
        open_results(tmp_path / "out")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_is_an_error_and_the_journal_stays_whole(tmp_path):
    with open_results(tmp_path / "out") as results:
        results.add(found("x.wav"))

    def fill_the_disk():
        with open_results(tmp_path / "out") as results:
            results._journal._file.close()
            results._journal._file = open("/dev/full", "wb", buffering=0)  # noqa: PTH123, SIM115
            results.add(found("y.wav"))
            results.flush()

    with pytest.raises(KerasBirdsError, match=r"can't be written.*No space left"):
        fill_the_disk()
    with open_results(tmp_path / "out") as results:
        assert contents(results) == {"x.wav": [0.5] * 3}


def test_names_that_are_not_utf8_are_done_and_listed_byte_for_byte(tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    with open_results(tmp_path / "out") as results:
        results.add(found(name))
        path = results.finish()
    assert b"caf\xe9.wav,ok" in path.read_bytes()
    with open_results(tmp_path / "out") as results:
        assert contents(results) == {name: [0.5] * 3}
