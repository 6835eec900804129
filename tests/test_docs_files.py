"""docs/files.md names the columns that tables really have, in their order."""

import re
from pathlib import Path

import pytest

import keras_birds
from keras_birds.data.check import COLUMNS as CHECKED
from keras_birds.data.folds import SPLIT_COLUMNS
from keras_birds.data.reviews import COLUMNS as REVIEWS
from keras_birds.results.detections import SUMMARY_COLUMNS
from keras_birds.results.outputs import ACTIVITY_COLUMNS
from keras_birds.results.report import CSV_COLUMNS, FRAME_COLUMNS
from keras_birds.results.results import MANIFEST_COLUMNS
from keras_birds.results.segments import SEGMENT_COLUMNS
from keras_birds.results.writers.rows import Detection
from keras_birds.results.writers.tables import FORMATS

PAGE = (Path(keras_birds.__file__).parents[1] / "docs" / "files.md").read_text("utf-8")


def first_cells(heading):
    """What stands as code in the first column of the table below a heading."""
    section = re.search(rf"^### {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return tuple(re.findall(r"^\| `([^`]+)` \|", section[1], re.MULTILINE))


@pytest.mark.parametrize(
    ("heading", "columns"),
    [
        ("manifest.csv", MANIFEST_COLUMNS),
        ("detections.csv", Detection._fields),
        ("summary.csv", SUMMARY_COLUMNS),
        ("activity.csv", ACTIVITY_COLUMNS),
        ("Formats", {"birdclef", *FORMATS}),
        ("The run's manifest.csv", CHECKED[:-1]),
        ("split.csv", SPLIT_COLUMNS),
    ],
)
def test_a_section_has_the_columns_of_its_table(heading, columns):
    found = first_cells(heading)
    assert (set(found) if isinstance(columns, set) else found) == columns


def test_tables_of_other_commands_are_named_with_their_columns():
    for columns in (CSV_COLUMNS, FRAME_COLUMNS, SEGMENT_COLUMNS, REVIEWS):
        assert f"`{', '.join(columns)}`" in PAGE
