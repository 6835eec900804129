"""Models of others, shaped as BirdNET's and Perch's exports are: from sound to scores, without metadata."""

import numpy as np
import onnx
from placeholder import make_onnx

RATE, WINDOW_S = 48_000, 3.0
SAMPLES = round(RATE * WINDOW_S)
FOREIGN_LABELS = ("Turdus merula_Common Blackbird", "Human vocal", "Pica pica_Eurasian Magpie")
TONES_HZ = (1000.0, 3000.0, 7000.0)


def write_model(
    path, batch="batch", samples="samples", activation="Identity", num_labels=3, extra_output=False
):
    """Logits are the power at each label's tone: `20 * amplitude ** 2 - 1`; with `"Sigmoid"` probabilities."""
    phases = 2 * np.pi * np.outer(np.arange(SAMPLES) / RATE, TONES_HZ[:num_labels])
    # Embeddings, as many such models give them beside the scores.
    extra = f"float[{batch}, {SAMPLES}] x2, " if extra_output else ""
    graph = f"""(float[{batch}, {samples}] x) => ({extra}float[{batch}, {num_labels}] out) {{
        a = MatMul(x, sine) b = MatMul(x, cosine) aa = Mul(a, a) bb = Mul(b, b) power = Add(aa, bb)
        scaled = Mul(power, scale) logits = Add(scaled, bias) out = {activation}(logits)
        {"x2 = Mul(x, scale)" if extra_output else ""} }}"""
    sine, cosine = np.sin(phases) * 2 / SAMPLES, np.cos(phases) * 2 / SAMPLES
    onnx.save(make_onnx(graph, sine=sine, cosine=cosine, scale=20.0, bias=-1.0), path)
    return path
