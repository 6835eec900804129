"""The data set that the demo makes for itself."""

import re

import numpy as np
import pandas as pd
import pytest
import soundfile

from keras_birds.audio.decode import decode
from keras_birds.config import DataConfig
from keras_birds.data.catalog import data_hash, read_catalog
from keras_birds.data.check import check_recordings
from keras_birds.data.synthetic import EXAMPLE, RATE_HZ, SPECIES, make_synthetic

PER_LABEL = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A data set of 48 recordings; read-only."""
    folder = tmp_path_factory.mktemp("synthetic") / "data"
    make_synthetic(folder, PER_LABEL)
    return folder


@pytest.fixture(scope="module")
def catalog(made):
    return read_catalog(made, DataConfig())


def samples_of(folder):
    """Relative path -> samples. The bytes differ: each OGG stream has a serial number that is drawn."""
    return {str(x.relative_to(folder)): soundfile.read(x)[0] for x in sorted(folder.rglob("*.ogg"))}


def require_same(first, second):
    assert list(first) == list(second)
    for name, samples in first.items():
        np.testing.assert_array_equal(samples, second[name])


def test_it_is_a_clean_birdclef_set(made, catalog):
    assert catalog.problems == []
    labels, count = catalog.labels.items, catalog.recordings["label"].value_counts()
    assert count.to_dict() == dict.fromkeys(catalog.labels, PER_LABEL)
    assert labels == tuple(label for label, _ in SPECIES)
    assert sum(label.isdigit() for label in catalog.labels) == 2
    assert {x.class_name for x in labels} == {"Amphibia", "Aves", "Insecta", "Mammalia"}
    assert all(x.scientific_name and x.common_name for x in labels)
    assert ",".join(pd.read_csv(made / "train.csv")) == (
        "primary_label,secondary_labels,type,filename,collection,rating,url,latitude,longitude,"
        "scientific_name,common_name,author,license"
    )
    for path, label in zip(catalog.relative_paths, catalog.recordings["label"], strict=True):
        assert re.fullmatch(rf"train_audio/{label}/SYN\d{{5}}\.ogg", path)
    assert {x.suffix for x in made.rglob("*") if x.is_file()} == {".ogg", ".csv"}


def test_every_recording_decodes(catalog, made):
    checked = check_recordings([*catalog.recordings["path"], made / EXAMPLE], RATE_HZ, workers=2)
    same = checked[["status", "sample_rate_hz", "channels"]].drop_duplicates()
    assert same.to_numpy().tolist() == [["ok", 32_000, 1]]
    seconds = checked["seconds"].to_numpy()
    assert seconds[-1] == pytest.approx(10, abs=0.01)
    assert 2.99 <= seconds[:-1].min() < seconds[:-1].max() <= 9.01
    assert np.ptp(seconds[:-1]) > 4
    info = soundfile.info(catalog.recordings["path"][0])
    assert (info.format, info.subtype) == ("OGG", "VORBIS")
    peaks = [np.abs(decode(x, RATE_HZ).samples).max() for x in catalog.recordings["path"]]
    assert 0.1 < min(peaks) < max(peaks) <= 1.0


def test_a_quarter_has_a_second_species(catalog):
    secondary = catalog.recordings["secondary"]
    assert {len(x) for x in secondary} == {0, 1}
    assert secondary.str.len().mean() == pytest.approx(0.25, abs=0.12)
    # A second species is another one: no target is counted twice.
    assert catalog.targets(DataConfig()).sum() == len(catalog) + secondary.str.len().sum()


def test_the_seed_decides(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert make_synthetic(tmp_path / "deep" / name, 1, seed) == tmp_path / "deep" / name / EXAMPLE
    first, again, other = (samples_of(tmp_path / "deep" / name) for name in "abc")
    assert len(first) == 9
    require_same(first, again)
    for table in ("train.csv", "taxonomy.csv"):
        assert (tmp_path / "deep/a" / table).read_bytes() == (tmp_path / "deep/b" / table).read_bytes()
    assert list(first) == list(other)
    assert not any(np.array_equal(x[:48_000], other[name][:48_000]) for name, x in first.items())


def test_it_is_made_once_and_an_interrupted_one_completed(tmp_path):
    calls = []

    def stop(done, total):
        calls.append((done, total))
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_synthetic(tmp_path / "a", 1, progress=stop)
    assert calls == [(i, 8) for i in range(1, 6)]
    assert not (tmp_path / "a" / "train.csv").exists()
    for name in "ab":
        make_synthetic(tmp_path / name, 1)
    require_same(samples_of(tmp_path / "a"), samples_of(tmp_path / "b"))
    digests = [data_hash(read_catalog(tmp_path / name, DataConfig())) for name in "ab"]
    assert digests[0] == digests[1]
    before = {x: (x.stat().st_mtime_ns, x.stat().st_ino) for x in tmp_path.rglob("*")}
    example = make_synthetic(tmp_path / "a", 3, seed=5, progress=lambda *_: pytest.fail("made again"))
    assert example == tmp_path / "a" / EXAMPLE
    assert {x: (x.stat().st_mtime_ns, x.stat().st_ino) for x in tmp_path.rglob("*")} == before
    for lost in ("train.csv", EXAMPLE):
        (tmp_path / "a" / lost).unlink()
        make_synthetic(tmp_path / "a", 1)
        assert (tmp_path / "a" / lost).is_file()
