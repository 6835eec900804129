"""What long work tells its caller meanwhile."""


class Reporter:
    """Receives lines, progress and problems of long work; this one is silent, so override what you want to see.

    `progress` may be called by several threads, and what it raises ends the work: a caller stops it so.
    """

    def log(self, line: str) -> None:
        """Takes a line of text for people to read."""

    def progress(self, task: str, done: float, total: float) -> None:
        """Takes how much of a longer task is done; it is over when `total` is 0.

        Args:
            task: what it is, for instance `"Checking recordings"`.
            done: in the task's unit.
            total: in the same unit.
        """

    def problem(self, name: str, reason: str) -> None:
        """Takes what the work goes on without: the name of a file or folder, and why."""
