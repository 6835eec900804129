import json

import pytest

from keras_birds.errors import DataError
from keras_birds.labels import Label, LabelSet, near_duplicates


def test_keeps_the_order_and_the_strings():
    names = ("1139490", "compau", "0022", "22")
    labels = LabelSet(names)
    assert (tuple(labels), labels.names, len(labels)) == (names, names, 4)
    assert (labels[1], labels[1:3]) == ("compau", ("compau", "0022"))
    assert [labels.index(name) for name in labels] == [0, 1, 2, 3]
    assert "0022" in labels
    assert 22 not in labels
    with pytest.raises(DataError, match=r"one of the 4 known\. Received: 'c'"):
        labels.index("c")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", 1139490], r"non-empty string\. Received: 1139490"),
        (["a", ""], r"non-empty string\. Received: ''"),
        ([Label(float("nan"))], "Received: nan"),
        (["c", "a", "b", "a", "c"], r"unique\. Received twice: a, c$"),
    ],
)
def test_what_is_no_label_or_there_twice_is_refused(labels, message):
    with pytest.raises(DataError, match=message):
        LabelSet(labels)


def test_names_that_people_take_for_one_are_found():
    names = ["dog", "caf\u00e9", "Dog", "red  fox", "cafe\u0301", "red fox", "DOG", "dogs", "dog"]
    assert near_duplicates(names) == [
        ("dog", "Dog", "DOG"),
        ("caf\u00e9", "cafe\u0301"),
        ("red  fox", "red fox"),
    ]


def test_equality_is_about_names_and_their_order():
    same = LabelSet(["a", "b"]), LabelSet([Label("a", common_name="Ay"), "b"])
    assert len(set(same)) == 1
    assert same[0] not in (LabelSet(["b", "a"]), ["a", "b"])


def test_json_round_trip_keeps_what_the_taxonomy_says():
    labels = LabelSet([Label("grekis", "Pitangus sulphuratus", "Great Kiskadee", "Aves"), "65448"])
    assert LabelSet.from_json(json.loads(json.dumps(labels.to_json()))).items == labels.items
