"""The data set that the demo makes for itself."""

import re

import numpy as np
import pytest
import soundfile

from keras_birds.config import AudioConfig, DataConfig
from keras_birds.data.catalog import data_hash, read_catalog
from keras_birds.data.check import check_recordings
from keras_birds.data.synthetic import EXAMPLE, RATE_HZ, SPECIES, make_synthetic


def samples_of(folder):
    """Relative path -> samples. The bytes differ: each OGG stream has a serial number that is drawn."""
    return {str(x.relative_to(folder)): soundfile.read(x)[0] for x in sorted(folder.rglob("*.ogg"))}


def test_it_is_a_clean_birdclef_set_of_recordings_that_decode(tmp_path):
    made = tmp_path / "data"
    make_synthetic(made, per_label=6)
    catalog = read_catalog(made, DataConfig())
    catalog.require_clean()
    labels, table = catalog.labels.items, catalog.recordings
    assert table["label"].value_counts().to_dict() == dict.fromkeys(catalog.labels, 6)
    assert labels == tuple(label for label, _ in SPECIES)
    assert sum(label.isdigit() for label in catalog.labels) == 2
    assert {x.class_name for x in labels} == {"Amphibia", "Aves", "Insecta", "Mammalia"}
    assert all(x.scientific_name and x.common_name for x in labels)
    assert (made / "train.csv").read_text().splitlines()[0].replace('"', "") == (
        "primary_label,secondary_labels,type,filename,collection,rating,url,latitude,longitude,"
        "scientific_name,common_name,author,license"
    )
    for path, label in zip(catalog.relative_paths, table["label"], strict=True):
        assert re.fullmatch(rf"train_audio/{label}/SYN\d{{5}}\.ogg", path)
    assert {x.suffix for x in made.rglob("*") if x.is_file()} == {".ogg", ".csv"}

    # A quarter has a second species, which is another one: no target is counted twice.
    num_secondary = table["secondary"].str.len()
    assert set(num_secondary) == {0, 1}
    assert num_secondary.mean() == pytest.approx(0.25, abs=0.12)
    assert catalog.targets(DataConfig()).sum() == len(catalog) + num_secondary.sum()

    checked = check_recordings(
        [*table["path"], made / EXAMPLE], AudioConfig(sample_rate_hz=RATE_HZ), workers=2
    )
    same = checked[["status", "sample_rate_hz", "channels"]].drop_duplicates()
    assert same.to_numpy().tolist() == [["ok", 32_000, 1]]
    *seconds, example_s = checked["seconds"]
    assert example_s == pytest.approx(10, abs=0.01)
    assert 2.99 <= min(seconds) < max(seconds) - 4 <= 5.01
    info = soundfile.info(table["path"][0])
    assert (info.format, info.subtype) == ("OGG", "VORBIS")
    peaks = [np.abs(x).max() for x in samples_of(made).values()]
    assert 0.1 < min(peaks) < max(peaks) <= 1.0


def test_the_seed_decides(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert make_synthetic(tmp_path / "deep" / name, 1, seed) == tmp_path / "deep" / name / EXAMPLE
    first, again, other = (samples_of(tmp_path / "deep" / name) for name in "abc")
    assert len(first) == 9
    assert list(first) == list(again) == list(other)
    for name, samples in first.items():
        np.testing.assert_array_equal(samples, again[name])
        assert not np.array_equal(samples[:48_000], other[name][:48_000])
    for table in ("train.csv", "taxonomy.csv"):
        assert (tmp_path / "deep/a" / table).read_bytes() == (tmp_path / "deep/b" / table).read_bytes()


def test_it_is_made_once_and_an_interrupted_one_completed(tmp_path):
    calls = []

    def stop(done, total):
        calls.append((done, total))
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_synthetic(tmp_path / "a", 1, progress=stop)
    assert calls == [(i, 8) for i in range(1, 6)]
    assert not (tmp_path / "a/train.csv").exists()
    for name in "ab":
        make_synthetic(tmp_path / name, 1)
    np.testing.assert_equal(samples_of(tmp_path / "a"), samples_of(tmp_path / "b"))
    assert len({data_hash(read_catalog(tmp_path / name, DataConfig())) for name in "ab"}) == 1
    before = {x: (x.stat().st_mtime_ns, x.stat().st_ino) for x in tmp_path.rglob("*")}
    example = make_synthetic(tmp_path / "a", 3, seed=5, progress=lambda *_: pytest.fail("made again"))
    assert example == tmp_path / "a" / EXAMPLE
    assert {x: (x.stat().st_mtime_ns, x.stat().st_ino) for x in tmp_path.rglob("*")} == before
    for lost in ("train.csv", EXAMPLE):
        (tmp_path / "a" / lost).unlink()
        make_synthetic(tmp_path / "a", 1)
        assert (tmp_path / "a" / lost).is_file()
