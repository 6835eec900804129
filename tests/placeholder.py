"""The models that tests score with: ONNX graphs made in milliseconds, without keras or torch, and the placeholder.

That is a real Keras model, which tells in which of four frequency bands a clip is loudest: a tone of `TONES_HZ[i]` is a
`LABELS[i]`. Its weights are set, not trained.
"""

from pathlib import Path

import numpy as np
import onnx

from keras_birds.config import AudioConfig, MelConfig
from keras_birds.labels import Label, LabelSet
from keras_birds.models.metadata import ModelMetadata

# Not in alphabetical order, and the first looks like a number: order and strings must survive every file.
LABELS = LabelSet(
    [
        Label("1139490", "Lithobates palmipes", "Amazon River Frog", "Amphibia"),
        Label("whtdov", "Leptotila verreauxi", "White-tipped Dove", "Aves"),
        Label("bkcdon", "Nyctidromus albicollis", "Common Pauraque", "Aves"),
        Label("amakin1", "Chloroceryle amazona", "Amazon Kingfisher", "Aves"),
    ]
)
TONES_HZ = (300.0, 1200.0, 2700.0, 5600.0)

AUDIO = AudioConfig(sample_rate_hz=16_000, clip_s=2.0)
MEL = MelConfig(n_fft=512, hop_samples=500, n_mels=64, f_max_hz=8000.0, height=32, width=32)


def make_model(logit_scale: float = 20.0):
    """Images `[batch, 32, 32, 1]` to logits `[batch, 4]`: each the peak of its band's rows, scaled."""
    import keras

    num_labels = len(LABELS)
    inputs = keras.Input((MEL.height, MEL.width, 1))
    bands = keras.layers.MaxPooling2D((MEL.height // num_labels, MEL.width))(inputs)
    dense = keras.layers.Dense(num_labels)
    model = keras.Model(inputs, dense(keras.layers.Flatten()(bands)))
    dense.set_weights([logit_scale * np.eye(num_labels), np.full(num_labels, -0.9 * logit_scale)])
    return model


def make_metadata(model_id: str = "placeholder/fold0", **changes) -> ModelMetadata:
    known = {"labels": LABELS, "audio": AUDIO, "mel": MEL}
    return ModelMetadata(
        model_id, **{**known, "licence": "Apache-2.0", "metrics": {"macro_auc": 0.9}, **changes}
    )


def write_fold(folder: Path, model, **changes) -> Path:
    """Writes a finished fold of a Keras model, through the real export."""
    from keras_birds.models.onnx_export import export_onnx

    folder.mkdir(parents=True)
    model.save(folder / "model.keras")
    metadata = make_metadata(f"{folder.parent.name}/{folder.name}", **changes)
    metadata.write_json(folder / "model.json")
    export_onnx(folder / "model.keras", folder / "model.onnx", metadata)
    return folder


def make_run(run: Path) -> Path:
    """Writes a run of two finished folds whose probabilities differ."""
    for fold, logit_scale in enumerate((20.0, 10.0)):
        write_fold(run / f"fold{fold}", make_model(logit_scale))
    return run


def make_onnx(graph: str, **weights) -> onnx.ModelProto:
    """A model of a graph in ONNX's textual syntax, with its float32 weights."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> made {graph}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.float32(x), k) for k, x in weights.items())
    return model


def write_constant_model(path: Path, logits: list[float], metadata=None, input_name: str = "mel") -> Path:
    """Writes an ONNX file whose every clip gets `logits`, with metadata inside, folders included."""
    metadata, labels = metadata or make_metadata(), len(logits)
    height, width = metadata.mel.height, metadata.mel.width
    graph = f"""(float[batch, {height}, {width}, 1] {input_name}) => (float[batch, {labels}] logits)
        {{ flat = Flatten({input_name}) logits = Gemm(flat, zeros, bias) }}"""
    model = make_onnx(graph, zeros=np.zeros((height * width, labels)), bias=logits)
    onnx.helper.set_model_props(model, metadata.onnx_props())
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
