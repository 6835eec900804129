"""What became of each recording."""

from dataclasses import dataclass

SCORED = frozenset({"ok", "partial", "silent"})
"""Statuses of recordings that have scores."""


@dataclass(frozen=True, slots=True)
class RecordingStatus:
    """What became of one recording: a row of `manifest.csv`.

    Args:
        file: the path or URL as it was given or found.
        status: `ok`, `partial` or `silent` where there are scores; `corrupt`, `empty`, `too short`, `missing` or
            `unreadable` where there are none.
        reason: why the status isn't ok.
        seconds: how much decoded; 0 where nothing did.
        seconds_expected: what the header promises; NaN where it doesn't say.
        sample_rate_hz: as recorded; 0 where unknown.
        channels: as recorded; 0 where unknown.
        windows: how many were scored, over all channels.
        unscored_s: length of a last partial window under 1 s that was dropped.
        detections: rows that it has in the tables.
        size_bytes: of the file when it was read; -1 where unknown.
        mtime_ns: of the file when it was read; -1 where unknown.
        not_seen: why the last run over a folder of results didn't see it; what an earlier one found in it stays.
    """

    file: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    seconds_expected: float = float("nan")
    sample_rate_hz: int = 0
    channels: int = 0
    windows: int = 0
    unscored_s: float = 0.0
    detections: int = 0
    size_bytes: int = -1
    mtime_ns: int = -1
    not_seen: str = ""

    @property
    def failed(self) -> bool:
        """Whether there are no scores."""
        return self.status not in SCORED

    @property
    def fingerprint(self) -> tuple[int, int]:
        """By which a changed file is known: size in bytes and time in nanoseconds."""
        return self.size_bytes, self.mtime_ns
