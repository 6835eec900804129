"""How long the app's page "Find" lets people wait, with 100,000 windows in the store.

    python benchmarks/find_page.py [--windows 100000] [--repeats 5] [--folder DIR] [--screenshots DIR]

A server of its own and a headless Chromium, both on this machine: the browser takes its share of the processors. The
store is of the clips of `../shared/data/animals` one after the other, as one FLAC file, whose embeddings are repeated
with noise under other names, links to it. First hits: from the choice of an upload's part, `Search`, to twelve
pictures. Next clip: from the key of a mark until the next hit is framed and its sound begins. Kept: until the mark
stands in the CSV. New head: trained and all windows scored, as the page says. New page: from `Teach` to twelve other
pictures. Medians, and the greatest. Needs `keras-birds models add birdnet`.
"""

import argparse
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from app_browser import Visitor, serve, until  # noqa: E402

import keras_birds  # noqa: E402
from keras_birds.audio.decode import decode  # noqa: E402
from keras_birds.audio.files import find_inputs  # noqa: E402
from keras_birds.config import AudioConfig  # noqa: E402
from keras_birds.embeddings.writer import StoreWriter, store_settings  # noqa: E402
from keras_birds.inference.embedder import Embedder  # noqa: E402
from keras_birds.inference.scorer import (  # noqa: E402
    DEFAULT_OPTIONS,
    RecordingScores,
    RecordingStatus,
    score_recordings,
)

ANIMALS = ROOT.parent / "shared" / "data" / "animals"
RATE_HZ = 32_000
WATCH = """
    const audio = document.querySelector('.kb-player');
    window.spent = null;
    let began, before;
    document.addEventListener('keydown', () => {
        began = performance.now();
        before = document.querySelector('.kb-focus');
    }, { once: true, capture: true });
    audio.addEventListener('playing', () => {
        window.spent = document.querySelector('.kb-focus') === before ? null : (performance.now() - began) / 1000;
    }, { once: true });
"""


def make_store(folder: Path, windows: int) -> Path:
    """A store of links to one recording, unless it is there."""
    store = folder / "links.emb"
    if store.is_dir():
        return store
    sound = folder / "all.flac"
    with soundfile.SoundFile(sound, "w", RATE_HZ, 1) as file:
        for clip in find_inputs([str(ANIMALS)], None, lambda *_: None):
            file.write(decode(clip, AudioConfig(sample_rate_hz=RATE_HZ)).samples)
    ensemble, rng = keras_birds.load("birdnet"), np.random.default_rng(0)
    (real,) = score_recordings(Embedder(ensemble), [str(sound)])
    with StoreWriter(store, store_settings(ensemble, DEFAULT_OPTIONS)) as writer:
        for k in range(-(-windows // len(real.scores))):
            link = folder / f"site{k:03d}.flac"
            link.symlink_to(sound)
            noise = rng.standard_normal(real.scores.shape, np.float32)
            noise *= 0.3 * np.linalg.norm(real.scores, axis=1, keepdims=True) / np.sqrt(noise.shape[1])
            scores = np.maximum(0, real.scores + noise)
            status = RecordingStatus(str(link), "ok", windows=len(scores))
            writer.add(RecordingScores(status, real.start_s, real.end_s, real.channel, scores))
        writer.finish()
    return store


def pictures(visitor: Visitor) -> str:
    """What the grid shows, once all is drawn."""
    script = """
        const found = [...document.querySelectorAll('.kb-hit img')];
        return found.length && found.every(x => x.complete) ? found.map(x => x.src).join() : '';
    """
    return visitor.run(script)


def seconds(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def tell(what: str, times: list[float], limit_s: float) -> None:
    figures = f"{statistics.median(times):6.2f} s, at most {max(times):.2f} s of {len(times)}"
    print(f"{what:<12}{figures} (asked: under {limit_s:g} s)", flush=True)


def first_hits(visitor: Visitor, clip: Path) -> float:
    visitor.open("?label=cat&from=Upload")
    visitor.upload(clip)
    until(lambda: "The whole recording" in visitor.text())
    return seconds(lambda: (visitor.click_button("Search"), until(lambda: pictures(visitor), 30)))


def marked(visitor: Visitor, marks: Path, key: str) -> tuple[float, float]:
    """Until the next clip plays, and until the mark is kept."""
    before = marks.read_text() if marks.is_file() else ""
    began = time.perf_counter()
    visitor.run(WATCH)
    visitor.press(key)
    next_s = until(lambda: visitor.run("return window.spent"), 30)
    until(lambda: marks.is_file() and marks.read_text() != before, 30)
    return next_s, time.perf_counter() - began


def new_page(visitor: Visitor) -> tuple[float, float]:
    """The head alone, and all until its choice is drawn."""
    before = pictures(visitor)

    def turn():
        visitor.click_button("Teach, and show")
        until(lambda: pictures(visitor) not in ("", before), 30)

    page_s = seconds(turn)
    said = until(lambda: re.search(r"scored: ([0-9.]+) s", visitor.text()))
    return float(said.group(1)), page_s


def measure(folder: Path, args: argparse.Namespace) -> None:
    store, marks = make_store(folder, args.windows), folder / "marks" / "marks.reviews.csv"
    marks.unlink(missing_ok=True)
    clip = folder / "cat.wav"
    first = sorted((ANIMALS / "train_audio" / "cat").iterdir())[0]
    soundfile.write(clip, decode(first, AudioConfig(sample_rate_hz=RATE_HZ)).samples[: 3 * RATE_HZ], RATE_HZ)
    arguments = "--embeddings", str(store), "--reviews", str(marks.parent)
    with serve(folder, *arguments) as address:
        searches = []
        for _ in range(args.repeats):
            with Visitor(address, folder) as visitor:
                searches.append(first_hits(visitor, clip))
        with Visitor(address, folder) as visitor:
            first_hits(visitor, clip)
            spent = [marked(visitor, marks, key) for key in "yynn" + "yn" * 3]
            taught = [new_page(visitor) for _ in range(args.repeats)]
            if args.screenshots:
                visitor.driver.set_window_size(1400, 2000)
                marked(visitor, marks, "y")
                time.sleep(3)
                visitor.driver.save_screenshot(str(args.screenshots / "find.png"))
    (nexts, kept), (heads, pages) = zip(*spent, strict=True), zip(*taught, strict=True)
    tell("first hits", searches, 3)
    tell("next clip", list(nexts), 0.3)
    tell("mark kept", list(kept), 1)
    tell("new head", list(heads), 2)
    tell("new page", list(pages), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="Keeps the store, and uses it again.")
    parser.add_argument("--screenshots", type=Path, help="Where find.png goes.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        measure(folder, args)


if __name__ == "__main__":
    main()
