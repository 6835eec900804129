"""Folders of results or stores of embeddings that several processes wrote side by side, as one."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from keras_birds.errors import ConfigError, DataError
from keras_birds.results.journal import JOURNAL, RESULTS, Contents, Entry, Journal


def join_parts(parts: Sequence[str | Path], out: str | Path, contents: Contents = RESULTS) -> int:
    """Joins folders that the same command wrote of different recordings.

    The parts stay as they are. What reads a folder of results or a store can use the joined one at once; tables and
    manifest are written by the parts' own command, once more with all recordings, which finds nothing left to score.

    Args:
        parts: the folders; of a recording in several of them the last one counts.
        out: a new folder.
        contents: what they hold: `journal.RESULTS`, or of stores `embeddings.store.EMBEDDINGS`.

    Returns:
        How many recordings are in it.

    Raises:
        ConfigError: if `out` exists already.
        DataError: if there are no parts, one is no such folder, or has other settings than the first.
        KerasBirdsError: if it can't be written.
    """
    out, folders = Path(out), [Path(x) for x in parts]
    if not folders:
        raise DataError("parts must be folders. Received: none")
    if out.exists():
        raise ConfigError(f"parts are joined in a new folder. Received: {out}, which exists. Choose another")
    settings = Journal(folders[0], None, contents).settings
    if "models" in settings:
        raise DataError(
            f"{folders[0]}: parts must be results of one model. Received: those of {len(settings['models'])}; join "
            "models/0, 1, ... of all parts"
        )
    for folder in folders:
        _require_equal(folder, folders[0], Journal(folder, None, contents).settings, settings, contents)
    joined, number = Journal(out, settings, contents), 0
    try:
        for folder in folders:
            part = Journal(folder, None, contents)
            entries: list[Entry] = []
            for old, found in part.shards():
                number += 1
                _copy_shard(folder, out, old, number)
                entries += [replace(x, shard=number) for x, _ in found]
            joined.append([*entries, *(x for x in part.by_file.values() if x.shard < 0)])
        return len(joined.by_file)
    finally:
        joined.close()


def _require_equal(
    folder: Path, first: Path, settings: dict[str, Any], wanted: dict[str, Any], contents: Contents
) -> None:
    names = [x for x in {**wanted, **settings} if wanted.get(x) != settings.get(x)]
    if differ := [x for x in names if x not in contents.may_differ]:
        raise DataError(
            f"{folder}: parts must have the same settings. Received: another {', '.join(differ)} than {first}. Run "
            f"`keras-birds {contents.command}` again there, as in the others"
        )


def _copy_shard(folder: Path, out: Path, old: int, new: int) -> None:
    """All files of a shard, of whatever kind."""
    found = sorted(folder.glob(f"*/{old:06d}.*"))
    if not found:
        raise DataError(
            f"{folder} must hold the shards that its {JOURNAL} names. Received: none of {old:06d}"
        )
    for path in found:
        target = out / path.parent.name / f"{new:06d}{path.suffix}"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
