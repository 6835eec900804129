"""`keras-birds listen`: detections as they come."""

import io
import json
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_birds.cli.options import ModelType, ThresholdType

if TYPE_CHECKING:
    from keras_birds.inference.listen import LiveDetection


@click.command()
@click.argument("source", required=False, type=click.Choice(["-"]), metavar="[-]")
@click.option("--model", type=ModelType(), metavar="MODEL", help="As for predict.")
@click.option(
    "--rate", "rate_hz", type=click.IntRange(min=1000), metavar="HZ", help="Of raw samples on stdin."
)
@click.option("--channels", type=click.IntRange(min=1), default=1, show_default=True, help="Of raw samples.")
@click.option(
    "--sample-format",
    type=click.Choice(("s16", "s24", "s32", "f32")),
    default="s16",
    show_default=True,
    help="Of raw samples, little-endian.",
)
@click.option("--device", metavar="NAME|NUMBER", help="The microphone. [default: the system's]")
@click.option(
    "--overlap",
    "overlap_s",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Seconds that each window shares with the one before.",
)
@click.option(
    "--threshold",
    type=ThresholdType(),
    default=0.25,
    show_default=True,
    metavar="NUMBER|FILE",
    help="Least probability, or a CSV with one for each label.",
)
@click.option(
    "--species",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Only these labels or names, one a line.",
)
@click.option("--calibrated", is_flag=True, help="Scores as `keras-birds calibrate` found them to mean.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="A line a detection, for people or for programs.",
)
def listen(
    source: str | None,
    model: Path | None,
    rate_hz: int | None,
    channels: int,
    sample_format: Any,
    device: str | None,
    overlap_s: float,
    threshold: float | Path,
    species: Path | None,
    calibrated: bool,
    form: str,
) -> None:
    """Name animals as they call: from a microphone, or with - from a stream on stdin.

    \b
    keras-birds listen                                             # the microphone; Ctrl-C ends
    arecord -f S16_LE -r 48000 -c 1 -t raw | keras-birds listen - --rate 48000
    ffmpeg -i rtsp://... -f wav - | keras-birds listen - --overlap 2.5
    keras-birds listen - --format json < recording.wav             # any WAV, as fast as it can be scored

    A line comes as soon as its window has ended. Up to a minute of sound waits in memory when the machine is busy; a
    pipe then waits as well, and of a microphone the oldest sound is lost, which is told at the end.
    """
    import numpy as np

    from keras_birds.audio.live_input import LiveBuffer, hear, open_microphone, pipe_blocks, resampled
    from keras_birds.inference.classifier import load
    from keras_birds.inference.listen import listen as detections_of
    from keras_birds.results.detections import DetectionRules

    if source is None and rate_hz is not None:
        raise click.UsageError("--rate is for samples on stdin: pass - as well")
    classifier = load(model, calibrated=calibrated)
    rules = DetectionRules.of(classifier.labels, threshold, species)
    thresholds = np.where(rules.species, np.asarray(rules.thresholds, np.float32), np.inf)
    stream = None
    if source is None:
        rate_hz, buffer, stream = open_microphone(device)
    else:
        # Unbuffered: a thread that waits in Python's buffered reader aborts the process when it exits after Ctrl-C.
        pipe = io.FileIO(sys.stdin.fileno(), closefd=False)
        rate_hz, blocks = pipe_blocks(pipe, rate_hz, channels, sample_format)
        buffer = LiveBuffer(rate_hz)
        hear(blocks, buffer)
    began = datetime.now().astimezone()
    click.echo(f"Listening at {rate_hz:,} Hz with {classifier.model_id}; Ctrl-C ends", err=True)
    heard_s, count = 0.0, 0
    try:
        sound = resampled(iter(buffer), rate_hz, classifier.audio.sample_rate_hz)
        for window in detections_of(classifier, sound, overlap_s, thresholds):
            count += len(window.detections)
            heard_s = window.end_s
            for x in window.detections:
                click.echo(_line(x, began, form))
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    finally:
        buffer.close()
        if stream is not None:
            stream.close()
    lost = f", {buffer.lost_s:.1f} s lost" if buffer.lost_s else ""
    click.echo(f"Heard {heard_s:.1f} s: {count} detection{'s' * (count != 1)}{lost}", err=True)


def _line(x: "LiveDetection", began: datetime, form: str) -> str:
    time = (began + timedelta(seconds=x.start_s)).isoformat(timespec="milliseconds")
    if form == "json":
        row = {
            "time": time,
            "start_s": round(x.start_s, 3),
            "end_s": round(x.end_s, 3),
            "label": x.label.name,
            "scientific_name": x.label.scientific_name,
            "common_name": x.label.common_name,
            "score": float(f"{x.score:.6g}"),
        }
        return json.dumps(row, ensure_ascii=False)
    return f"{time}  {x.start_s:8.1f} to {x.end_s:.1f} s  {x.score:.3f}  {x.label.known_as}"
