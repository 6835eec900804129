"""Peak memory of `keras-birds detect` on a long recording beside a short one.

    python benchmarks/predict_memory.py [DATA] [--minutes 30 360]

Each recording is scored by a process of its own, with every window's scores kept, by an untrained EfficientNet-B0 of
206 labels at 256×256 in ONNX Runtime. Prints the peak of resident memory (VmHWM) of each and their ratio.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from predict_speed import SHARED, write_model, write_recording

_CODE = """
import sys
from pathlib import Path
from keras_birds.cli.main import main
try:
    main()
finally:
    status = Path("/proc/self/status").read_text()
    print(next(x.split()[1] for x in status.splitlines() if x.startswith("VmHWM")))
"""


def peak_mb(model: Path, recording: Path, out: Path) -> float:
    """Peak resident memory, MB."""
    command = ["detect", recording, "--model", model, "--out", out, "--keep-scores"]
    done = subprocess.run(
        [sys.executable, "-c", _CODE, *map(str, command)], capture_output=True, text=True, check=True
    )
    return int(done.stdout.splitlines()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=SHARED / "soundscapes")
    parser.add_argument("--minutes", type=float, nargs=2, default=[30, 360])
    args = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_model(folder)
        for minutes in args.minutes:
            write_recording(args.data, folder / "long.ogg", minutes)
            peaks.append(peak_mb(model, folder / "long.ogg", folder / f"out{len(peaks)}"))
            print(f"{minutes:g} minutes: peak {peaks[-1]:.0f} MB", flush=True)
    print(f"ratio {peaks[1] / peaks[0]:.2f}")


if __name__ == "__main__":
    main()
