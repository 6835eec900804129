"""What the page draws: the whole recording's outline and scores, and one part of it closely."""

from collections.abc import Mapping
from itertools import cycle, islice
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from keras_birds.audio.envelope import Envelope
from keras_birds.inference.classifier import Classifier
from keras_birds.plots.figure import COLORS, draw_linear, draw_mel, draw_wave, png

PICK = "pick"
"""Name of the timeline's selection: the point that was clicked."""

_MAX_POINTS = 1500
_MAX_BOXES = 200
_AXIS = 52


def outline(envelope: Envelope, part_s: tuple[float, float]) -> alt.LayerChart:
    """The whole waveform, with the part that is looked at marked."""
    starts_s = envelope.cell_s * np.arange(len(envelope.low))
    table = pd.DataFrame({"time_s": starts_s, "low": envelope.low, "high": envelope.high})
    x = alt.X("time_s:Q", title=None, scale=alt.Scale(domain=(0, envelope.seconds), nice=False))
    y = alt.Y("low:Q", title="Amplitude", axis=alt.Axis(minExtent=_AXIS, maxExtent=_AXIS, tickCount=3))
    wave = alt.Chart(table).mark_area(color=COLORS[-1], line={"color": COLORS[-1], "strokeWidth": 0.5})
    mark = alt.Chart(pd.DataFrame({"begin_s": [part_s[0]], "end_s": [part_s[1]]}))
    box = mark.mark_rect(color=COLORS[1], opacity=0.25).encode(x="begin_s:Q", x2="end_s:Q")
    return (wave.encode(x=x, y=y, y2="high:Q") + box).properties(height=110)


def timeline(times_s: np.ndarray, scores: dict[str, np.ndarray], threshold: float, seconds: float) -> Any:
    """Each chosen species' probability, window by window; a click picks a window.

    `times_s` are the windows' starts, `scores` their probabilities by the species' name; the threshold is a line.
    """
    parts = [decimated(times_s, values).assign(species=name) for name, values in scores.items()]
    table = pd.concat(parts) if parts else pd.DataFrame({"start_s": [], "probability": [], "species": []})
    fields = ["start_s", "species"]
    pick = alt.selection_point(name=PICK, fields=fields, nearest=True, on="click", toggle=False)
    span, unit = alt.Scale(domain=(0, seconds), nice=False), alt.Scale(domain=(0, 1))
    x = alt.X("start_s:Q", title="Time (s)", scale=span, axis=alt.Axis(tickCount=12))
    axis = alt.Axis(minExtent=_AXIS, maxExtent=_AXIS, tickCount=5)
    y = alt.Y("probability:Q", title="Probability", scale=unit, axis=axis)
    by_species = alt.Scale(domain=list(scores), range=list(islice(cycle(COLORS), len(scores))))
    top = alt.Legend(orient="top")
    colour = alt.Color("species:N", title=None, sort=None, scale=by_species, legend=top)
    numbers = {"start_s:Q": ".1f", "probability:Q": ".3f"}
    shown = [alt.Tooltip("species:N"), *(alt.Tooltip(name, format=form) for name, form in numbers.items())]
    # The last window's step reaches to the end.
    ends = table.groupby("species", sort=False).tail(1).assign(start_s=seconds)
    lines = alt.Chart(pd.concat([table, ends])).mark_line(interpolate="step-after")
    lines = lines.encode(x=x, y=y, color=colour)
    points = alt.Chart(table).mark_point(filled=True, size=45).encode(x=x, y=y, color=colour, tooltip=shown)
    rule = alt.Chart(pd.DataFrame({"y": [threshold]})).mark_rule(strokeDash=[4, 4], color="#888")
    return (rule.encode(y="y:Q") + lines + points.add_params(pick)).properties(height=280)


def decimated(times_s: np.ndarray, values: np.ndarray) -> pd.DataFrame:
    """At most 1,500 points: where one stands for several windows it is the most probable of them."""
    step = max(1, -(-len(values) // _MAX_POINTS))
    first = np.arange(0, len(values), step)
    best = [int(k + values[k : k + step].argmax()) for k in first]
    return pd.DataFrame({"start_s": times_s[best], "probability": values[best]})


def bars(top: pd.DataFrame) -> alt.LayerChart:
    """The answer's probabilities."""
    table = top.assign(species=[species(x) for x in top.to_dict("records")])
    y = alt.Y("species:N", sort=None, title=None, axis=alt.Axis(labelLimit=220))
    x = alt.X("probability:Q", scale=alt.Scale(domain=(0, 1)), title="Probability")
    chart = alt.Chart(table).encode(x=x, y=y)
    numbers = chart.mark_text(align="left", dx=4).encode(text=alt.Text("probability:Q", format=".3f"))
    return (chart.mark_bar(color=COLORS[0]) + numbers).properties(height=28 * len(table) + 40)


def species(row: Mapping[Any, Any]) -> str:
    """What people call a label."""
    return str(row["common_name"] or row["scientific_name"] or row["label"])


def part_picture(
    samples: np.ndarray,
    begin_s: float,
    classifier: Classifier,
    detections: pd.DataFrame,
    chosen: tuple[float, str] | None,
    own_rate_hz: int | None = None,
) -> bytes:
    """A part of the recording as a PNG: waveform, and spectrogram with the detections over it.

    The part is `[n]` samples as the classifier takes them, at least one, from `begin_s` on, and the spectrogram its
    mel; or they are as recorded, at `own_rate_hz`, and it reaches up to half of that, with lines where what the
    classifier hears ends. Of the detections the one with the chosen start and label stands out.
    """
    rate_hz = own_rate_hz or classifier.audio.resample_hz
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    wave, mel = figure.subplots(2, 1, height_ratios=(1, 3.2), sharex=True)
    draw_wave(wave, samples, rate_hz, begin_s)
    if own_rate_hz:
        draw_linear(mel, samples, own_rate_hz, begin_s)
        for bound_hz in classifier.audio.band_hz(classifier.mel):
            mel.axhline(bound_hz / 1000, color="white", linewidth=0.8, linestyle="--", alpha=0.7)
    else:
        draw_mel(mel, samples, classifier.audio, classifier.mel, begin_s)
    wave.tick_params(labelbottom=False)
    end_s = begin_s + len(samples) / rate_hz
    seen = detections[(detections["end_s"] > begin_s) & (detections["start_s"] < end_s)].head(_MAX_BOXES)
    names = sorted({species(x) for x in seen.to_dict("records")})
    colours = dict(zip(names, cycle(COLORS), strict=False))
    height, lanes = mel.get_ylim()[1], 0.09 * mel.get_ylim()[1]
    for row in seen.to_dict("records"):
        name = species(row)
        is_chosen = chosen == (row["start_s"], row["label"])
        top = height - lanes * names.index(name)
        left, right = max(begin_s, row["start_s"]), min(end_s, row["end_s"])
        # The edge's colour must come after the colour of both.
        style = {"color": colours[name], "edgecolor": "white", "linewidth": 0.8}
        mel.fill_between([left, right], top - 0.85 * lanes, top, alpha=0.95 if is_chosen else 0.75, **style)
        style = {"va": "center", "fontsize": 8, "color": "white", "clip_on": True, "parse_math": False}
        text, weight = f" {name} {row['score']:.2f}", "bold" if is_chosen else "normal"
        mel.text(left, top - 0.42 * lanes, text, fontweight=weight, **style)
        if is_chosen:
            mel.axvspan(row["start_s"], row["end_s"], fill=False, edgecolor="white", linewidth=1.5)
    mel.set_xlim(begin_s, end_s)
    return png(figure, 100)


def score_histogram(scores: np.ndarray, rows: np.ndarray, targets: np.ndarray) -> alt.LayerChart:
    """How many windows have which score, on a logarithmic axis, and the scores of marked ones as lines."""
    counts, edges = np.histogram(scores, 50, (0, 1))
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "windows": counts, "floor": 0.5})
    table = table[table["windows"] > 0]
    x = alt.X("low:Q", title="Score of the quick head", scale=alt.Scale(domain=(0, 1)))
    y = alt.Y(
        "windows:Q",
        title="Windows",
        scale=alt.Scale(type="log", domainMin=0.5),
        axis=alt.Axis(format="~s", tickCount=5),
    )
    shown = [alt.Tooltip("low:Q", format=".2f"), alt.Tooltip("windows:Q", format=",")]
    bars = (
        alt.Chart(table).mark_bar(color=COLORS[-1]).encode(x=x, x2="high:Q", y=y, y2="floor:Q", tooltip=shown)
    )
    marked = pd.DataFrame({"score": scores[rows], "marked": np.where(targets > 0, "yes", "no")})
    colour = alt.Scale(domain=["yes", "no"], range=[COLORS[2], COLORS[3]])
    lines = (
        alt.Chart(marked)
        .mark_rule(opacity=0.8)
        .encode(x="score:Q", color=alt.Color("marked:N", title="Marked", scale=colour))
    )
    return (bars + lines).properties(height=180)
