"""Pseudo labels: the rules, the tables as training reads them, and the command `keras-birds pseudo`."""

from pathlib import Path

import numpy as np
import pytest
from placeholder import LABELS
from pseudo_folder import write_pseudo_labels

from keras_birds.data.windows import Window
from keras_birds.errors import DataError
from keras_birds.labels import LabelSet
from keras_birds.results.pseudo import LabelRules, PseudoLabels, Teacher


def test_rules_raise_to_a_power_then_drop_what_is_low_then_cap_the_sum():
    probabilities = np.array([[0.9, 0.8, 0.3, 0.0], [0.2, 0.1, 0.05, 0.0]])
    rules = LabelRules(power=2, floor=0.1, cap=1.0, min_confidence=0.2)
    assert rules.keep(probabilities).tolist() == [True, True]
    np.testing.assert_allclose(rules.labels(probabilities), [[81 / 145, 64 / 145, 0, 0], [0] * 4], rtol=1e-6)
    assert LabelRules(min_confidence=0.21).keep(probabilities).tolist() == [True, False]
    np.testing.assert_array_equal(LabelRules().labels(probabilities), np.float32(probabilities))


def test_training_reads_each_folds_labels_and_the_mean_and_nothing_of_another_folder(tmp_path):
    windows = [("/a.flac", 0.0, 5.0), ("/a.flac", 5.0, 8.0), ("/b.flac", 0.0, 5.0)]
    probabilities = np.random.default_rng(0).random((3, 2, 4), np.float32)
    probabilities[2] = 0.01
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "split.csv").write_text("path,label,fold\n")
    teacher, rules = (
        Teacher(("run/fold0", "run/fold3"), (0, 3), tmp_path / "run"),
        LabelRules(2.0, 0, None, 0.1),
    )
    folder = write_pseudo_labels(tmp_path / "p", windows, LABELS, probabilities, teacher, rules, 1.5)
    with (folder / "manifest.csv").open("a") as manifest:
        manifest.write("/d.flac,silent\n/e.flac,corrupt\n/c.flac,partial\n")
    found = PseudoLabels(folder)
    assert (found.teacher, found.rules, found.overlap_s) == (teacher, rules, 1.5)
    assert (found.recordings, found.split) == ([f"/{x}.flac" for x in "abcd"], folder / "split.csv")
    for fold, wanted in (
        (None, probabilities.mean(axis=1)),
        (0, probabilities[:, 0]),
        (3, probabilities[:, 1]),
    ):
        soft = found.read(LABELS, fold)
        assert soft.windows == tuple(Window(Path(x), *span) for x, *span in windows[:2])
        np.testing.assert_allclose(soft.targets, wanted[:2] ** 2, rtol=1e-6)
    for act, said in (
        (lambda: found.read(LABELS, 1), "fold 1 must have pseudo labels .* Received: folds 0, 3. Label with"),
        (lambda: found.read(LabelSet(["x"]), None), "must have the data set's labels"),
        (
            lambda: PseudoLabels(tmp_path / "run"),
            "pseudo.json: No such file or directory; run the command again",
        ),
        (
            lambda: write_pseudo_labels(
                tmp_path / "q", windows, LABELS, probabilities, None, LabelRules(1, 0, None, 1)
            ),
            "no label of 3 windows has more than 0.[0-9]+; the scores are kept",
        ),
    ):
        with pytest.raises(DataError, match=said):
            act()
