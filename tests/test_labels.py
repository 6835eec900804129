import json

import pytest

from keras_birds.errors import DataError
from keras_birds.labels import Label, LabelSet, near_duplicates


def test_keeps_the_order_and_the_strings():
    labels = LabelSet(["1139490", "compau", "0022", "22"])
    assert list(labels) == ["1139490", "compau", "0022", "22"]
    assert labels.names == tuple(labels)
    assert len(labels) == 4
    assert labels[1] == "compau"
    assert labels[1:3] == ("compau", "0022")
    assert [labels.index(name) for name in labels] == [0, 1, 2, 3]
    assert "0022" in labels
    assert 22 not in labels


def test_an_integer_is_no_label():
    with pytest.raises(DataError, match=r"non-empty string\. Received: 1139490"):
        LabelSet(["a", 1139490])
    with pytest.raises(DataError, match=r"non-empty string\. Received: ''"):
        LabelSet(["a", ""])
    with pytest.raises(DataError, match=r"Received: nan"):
        LabelSet([Label(float("nan"))])


def test_repeated_labels_are_all_named():
    with pytest.raises(DataError, match=r"unique\. Received twice: a, c$"):
        LabelSet(["c", "a", "b", "a", "c"])


def test_names_that_people_take_for_one_are_found():
    names = ["dog", "caf\u00e9", "Dog", "red  fox", "cafe\u0301", "red fox", "DOG", "dogs"]
    assert near_duplicates(names) == [
        ("dog", "Dog", "DOG"),
        ("caf\u00e9", "cafe\u0301"),
        ("red  fox", "red fox"),
    ]
    assert near_duplicates(["a", "b", "a"]) == []


def test_an_unknown_label_is_told():
    with pytest.raises(DataError, match=r"one of the 2 known\. Received: 'c'"):
        LabelSet(["a", "b"]).index("c")


def test_equality_is_about_names_and_their_order():
    assert LabelSet(["a", "b"]) == LabelSet([Label("a", common_name="Ay"), "b"])
    assert hash(LabelSet(["a", "b"])) == hash(LabelSet([Label("a", common_name="Ay"), "b"]))
    assert LabelSet(["a", "b"]) != LabelSet(["b", "a"])
    assert LabelSet(["a", "b"]) != ["a", "b"]


def test_json_round_trip_keeps_what_the_taxonomy_says():
    labels = LabelSet([Label("grekis", "Pitangus sulphuratus", "Great Kiskadee", "Aves"), "65448"])
    back = LabelSet.from_json(json.loads(json.dumps(labels.to_json())))
    assert back == labels
    assert back.items == labels.items
    assert back.items[0].common_name == "Great Kiskadee"


def test_a_label_that_is_there_twice_is_refused():
    with pytest.raises(DataError, match=r"Received twice: a$"):
        LabelSet(["a", "b", "a"])
