"""Prints how many recordings a second are listed with what their recorders wrote into them.

    python benchmarks/metadata_speed.py [--files 10000] [--rounds 3] [--out FOLDER]

WAVs are made as a season leaves them: one-second clips in a folder per recorder, a third each with GUANO behind the
samples, WAMD before them, and AudioMoth's comment; one in a hundred lost power, so that its end is searched. A round
lists the folder and reads all, on one thread, from the file cache. The goal is 500 files/s; the exit code is 1 below.
"""

import argparse
import os
import statistics
import struct
import sys
import tempfile
import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

from contention import processor

from keras_birds.audio.files import recordings_in
from keras_birds.audio.metadata import read_recorder_metadata

GOAL = 500
_RATE_HZ = 24_000
_FIRST = datetime(2025, 4, 1, 4)
_A_FOLDER = 500


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def recording(index: int) -> bytes:
    """A clip's bytes, each with its own time and place."""
    began = _FIRST + timedelta(minutes=10 * index)
    place = 40 + index / 1e5, -3 - index / 1e5
    sound = os.urandom(2 * _RATE_HZ)
    data = b"data\0\0\0\0" + sound if index % 100 == 99 else chunk(b"data", sound)
    fmt = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, _RATE_HZ, 2 * _RATE_HZ, 2, 16))
    if index % 3 == 0:
        lines = (
            "GUANO|Version:1.0",
            "Make:Wildlife Acoustics, Inc.",
            "Model:Song Meter Mini 2",
            f"Serial:{index:08d}",
        )
        settings = 'WA|Song Meter|Audio settings:[{"rate":24000,"gain":18}]'
        text = "\n".join(
            (
                *lines,
                settings,
                f"Timestamp:{began}+02:00",
                f"Loc Position:{place[0]:.5f} {place[1]:.5f}",
                "Temperature Int:9.25",
            )
        )
        chunks = fmt, data, chunk(b"guan", text.encode())
    elif index % 3 == 1:
        where = f"WGS84,{place[0]:.5f},N,{-place[1]:.5f},W".encode()
        values = {
            0: b"\1\0",
            1: b"SM4",
            2: b"S4A02641",
            5: f"{began}+02:00".encode(),
            6: where,
            0x10: bytes(4096),
            0x15: b"9.2C",
        }
        content = b"".join(struct.pack("<HI", k, len(x)) + x for k, x in values.items())
        chunks = fmt, chunk(b"wamd", content), data
    else:
        comment = (
            f"Recorded at {began:%H:%M:%S %d/%m/%Y} (UTC+2) by AudioMoth 248D9B04{index:08X} at medium gain while "
            "battery was 4.1V and temperature was 9.2C."
        )
        fields = chunk(b"ICMT", comment.encode().ljust(384, b"\0")) + chunk(b"IART", bytes(32))
        chunks = fmt, chunk(b"LIST", b"INFO" + fields), data
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--out", type=Path, help="where the recordings are made [default: a temporary folder]"
    )
    args = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} processors, {processor()}", flush=True)
    with tempfile.TemporaryDirectory(dir=args.out) as folder:
        for index in range(args.files):
            path = Path(folder, f"recorder{index // _A_FOLDER}", f"{index:06d}.wav")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(recording(index))
        rates = []
        for _ in range(args.rounds):
            begin = time.perf_counter()
            told = [read_recorder_metadata(x) for x in recordings_in(folder)]
            rates.append(len(told) / (time.perf_counter() - begin))
    sources = Counter(x.source or "nothing" for x in told)
    print(", ".join(f"{count:,} tell {source}" for source, count in sorted(sources.items())))
    whole = all(x.clock and x.recorder and not x.problems for x in told)
    rate = statistics.median(rates)
    print(
        f"{len(told):,} recordings listed and read at {rate:,.0f} files/s, median of {len(rates)} "
        f"({min(rates):,.0f} to {max(rates):,.0f}); goal {GOAL}"
    )
    sys.exit(rate < GOAL or not whole)


if __name__ == "__main__":
    main()
