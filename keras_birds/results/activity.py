"""When labels were detected: counts by hour of day, beside how long was recorded in that hour."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TextIO

import numpy as np

from keras_birds.inference.recording_status import RecordingStatus
from keras_birds.labels import LabelSet
from keras_birds.results.recording_time import start_time
from keras_birds.text import csv_writer

if TYPE_CHECKING:
    import pyarrow as pa

    from keras_birds.results.shards import StoredRows

COLUMNS = ("label", "scientific_name", "common_name", "hour", "detections", "recorded_h")
"""Of `activity.csv`, a row for each detected label and hour of day in which something was recorded."""


class Activity:
    """Counts detections by label and hour of day.

    Args:
        labels: of the model.
        time_pattern: how names tell when a recording began, as `recording_time.start_time` has it.
    """

    def __init__(self, labels: LabelSet, time_pattern: str | None = None):
        self.labels = labels
        self.detections = np.zeros((len(labels), 24), np.int64)
        """`[label, hour]`."""
        self.recorded_s = np.zeros(24)
        """`[hour]`, of recordings whose names tell the time."""
        self._time_pattern = time_pattern

    def add(self, recording: RecordingStatus, rows: "pa.Table | StoredRows") -> None:
        """Counts one recording; nothing where its name doesn't tell when it began."""
        began = start_time(recording.file, self._time_pattern)
        if began is None:
            return
        self.recorded_s += _seconds_by_hour(began, recording.seconds)
        for batch in rows.to_batches():
            labels = batch["label"].dictionary_encode()
            known = np.array([self.labels.index(x) for x in labels.dictionary.to_pylist()], np.int64)
            hours = (
                batch["start_time"].to_numpy(zero_copy_only=False).astype("datetime64[h]").astype(np.int64)
                % 24
            )
            np.add.at(self.detections, (known[labels.indices.to_numpy()], hours), 1)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.detections.any()

    def write_csv(self, stream: TextIO) -> None:
        """Writes `COLUMNS`, labels in the model's order."""
        rows = csv_writer(stream)
        rows.writerow(COLUMNS)
        for k in np.flatnonzero(self.detections.any(axis=1)):
            item = self.labels.items[int(k)]
            for hour in np.flatnonzero(self.recorded_s):
                counts = (int(hour), int(self.detections[k, hour]), f"{self.recorded_s[hour] / 3600:.6g}")
                rows.writerow((item.name, item.scientific_name, item.common_name, *counts))


def _seconds_by_hour(began: datetime, seconds: float) -> np.ndarray:
    spent = np.zeros(24)
    while seconds > 0:
        next_hour = began.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        part = min(seconds, (next_hour - began).total_seconds())
        spent[began.hour] += part
        began, seconds = next_hour, seconds - part
    return spent
