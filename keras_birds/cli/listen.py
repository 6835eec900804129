"""`keras-birds listen`: detections as they come."""

import io
import json
import sys
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_birds.cli.options import (
    COUNT,
    calibrated_option,
    choice_option,
    model_path,
    overlap_option,
    sensitivity_option,
)
from keras_birds.cli.rules_options import PlaceChoice, RulesChoice, place_options, rules_options
from keras_birds.cli.streams import encode_output

if TYPE_CHECKING:
    from keras_birds.audio.recorder import Origin
    from keras_birds.inference.aggregate import RankedLabel
    from keras_birds.inference.classifier import LiveWindow


@click.command()
@click.argument("source", required=False, type=click.Choice(["-"]), metavar="[-]")
@click.option("--model", type=model_path, metavar="MODEL", help="The model, as for `predict`.")
@click.option(
    "--rate", "rate_hz", type=click.IntRange(1000), metavar="HZ", help="Sample rate of raw samples on stdin."
)
@click.option("--channels", type=COUNT, default=1, help="Channels of raw samples on stdin.")
@choice_option(
    "--sample-format",
    ("s16", "s24", "s32", "f32"),
    "What raw samples are: integers or floats, little-endian.",
)
@click.option("--device", metavar="NAME|NUMBER", help="Microphone to hear. [default: the system's]")
@overlap_option
@rules_options
@place_options
@calibrated_option
@sensitivity_option
@choice_option("--format", ("text", "json"), "Lines for people or for programs.", "fmt")
def listen(
    source: str | None,
    model: Path | None,
    rate_hz: int | None,
    channels: int,
    sample_format: Any,
    device: str | None,
    overlap_s: float,
    rules: RulesChoice,
    place: PlaceChoice,
    calibrated: bool,
    sensitivity: float,
    fmt: str,
) -> None:
    """Name animals as they call: from a microphone, or with - from a stream on stdin.

    \b
    keras-birds listen                                             # the microphone; Ctrl-C ends
    arecord -f S16_LE -r 48000 -c 1 -t raw | keras-birds listen - --rate 48000
    keras-birds listen --lat 37.0 --lon -6.4                       # what occurs there at this time of the year
    ffmpeg -i rtsp://... -f wav - | keras-birds listen - --overlap 2.5
    keras-birds listen - --format json < recording.wav             # any WAV, as fast as it can be scored

    A line comes as soon as its window has ended; with --no-voices, when the one after it has ended too. Up to a minute
    of sound waits in memory when the machine is busy; a pipe then waits as well, and of a microphone the oldest sound
    is lost, which is told at the end.
    """
    import numpy as np

    from keras_birds.audio.chain import mix
    from keras_birds.audio.live_input import LiveBuffer, hear, open_microphone, pipe_blocks
    from keras_birds.audio.stream import as_taken
    from keras_birds.inference.classifier import listen as heard
    from keras_birds.inference.classifier import load
    from keras_birds.results.voices import QuietWindows

    if source is None and rate_hz is not None:
        raise click.UsageError("--rate is for samples on stdin: pass - as well")
    classifier = load(model, calibrated=calibrated, sensitivity=sensitivity)
    read = rules.read(classifier.labels)
    occurrence = place.read(classifier, elsewhere="")
    thresholds = np.where(read.species, np.asarray(read.thresholds, np.float32), np.inf)
    with ExitStack() as stack:
        if source is None:
            rate_hz, buffer, microphone = open_microphone(device)
            stack.callback(microphone.close)
        else:
            # Unbuffered: a thread that waits in Python's buffered reader aborts the process when it exits after Ctrl-C.
            pipe = io.FileIO(sys.stdin.fileno(), closefd=False)
            rate_hz, blocks = pipe_blocks(pipe, rate_hz, channels, sample_format)
            buffer = LiveBuffer(rate_hz)
            hear(blocks, buffer)
        stack.callback(buffer.close)
        began = datetime.now().astimezone()
        if fmt == "json":
            encode_output()
        click.echo(f"Listening at {rate_hz:,} Hz with {classifier.model_id}; Ctrl-C ends", err=True)
        count, audio = 0, classifier.audio
        sound = as_taken(map(mix, buffer), rate_hz, audio)
        windows = heard(classifier, sound, overlap_s, thresholds)
        quiet = QuietWindows(windows, classifier.labels, read.no_voices, audio.window_s - overlap_s)
        with suppress(KeyboardInterrupt):
            for window in quiet:
                presence = occurrence.of(_here_and_now(place)) if occurrence else None
                for x in window.detections:
                    if presence is None or presence.allowed[classifier.labels.index(x.label.name)]:
                        count += 1
                        click.echo(_line(window, x, began, fmt))
                sys.stdout.flush()
    lost = f", {buffer.lost_s:.1f} s lost" if buffer.lost_s else ""
    voices = f", {quiet.left_out} windows left out because of voices" if quiet.left_out else ""
    click.echo(f"Heard {quiet.heard_s:.1f} s: {count} detection{'s' * (count != 1)}{voices}{lost}", err=True)


def _here_and_now(place: PlaceChoice) -> "Origin":
    from keras_birds.audio.recorder import Origin

    latitude, longitude = place.degrees or (None, None)
    return Origin(datetime.now().isoformat(), latitude=latitude, longitude=longitude)


def _line(window: "LiveWindow", found: "RankedLabel", began: datetime, fmt: str) -> str:
    time = (began + timedelta(seconds=window.start_s)).isoformat(timespec="milliseconds")
    if fmt == "json":
        x = found.label
        row = {
            "time": time,
            "start_s": round(window.start_s, 3),
            "end_s": round(window.end_s, 3),
            "label": x.name,
        }
        row |= {"scientific_name": x.scientific_name, "common_name": x.common_name}
        return json.dumps(row | {"score": float(f"{found.score:.6g}")}, ensure_ascii=False)
    return f"{time}  {window.start_s:8.1f} to {window.end_s:.1f} s  {found.score:.3f}  {found.label.display_name}"
