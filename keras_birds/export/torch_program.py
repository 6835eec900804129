"""PyTorch programs (`torch.export`, .pt2), which run without Keras."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_birds.errors import ModelError
from keras_birds.models.backend_process import call_on_backend
from keras_birds.models.metadata import ModelMetadata

METADATA = "keras_birds.json"
"""Among the program's extra files."""


def write_torch(keras_paths: Sequence[Path], out: Path, metadata: ModelMetadata, input_kind: str) -> None:
    """Writes a float32 program for any batch.

    Args:
        keras_paths: of the members.
        out: in .pt2.
        metadata: goes inside, as the extra file `keras_birds.json`.
        input_kind: `"waveform"` or `"mel"`: what its one argument is.

    Raises:
        ModelError: if it can't be exported.
    """
    call_on_backend("torch", _write, keras_paths, out, metadata, input_kind)


def run_torch(path: Path, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What a program that `write_torch` wrote gives."""
    import torch

    program = torch.export.load(path).module()
    with torch.no_grad():
        return [program(torch.from_numpy(x)).numpy() for x in batches]


def _write(keras_paths: Sequence[Path], out: Path, metadata: ModelMetadata, input_kind: str) -> None:
    import torch

    from keras_birds.export.end_to_end import end_to_end_model

    model = end_to_end_model(keras_paths, metadata, input_kind)

    class Program(torch.nn.Module):
        # The Keras model isn't a submodule: its weights would be stored a second time, as they are constants here.
        def forward(self, inputs: Any) -> Any:
            (outputs,) = model(inputs, training=False).values()
            return outputs

    # A batch of 2: of 1, torch would take the size as a constant.
    example = torch.zeros((2, *model.inputs[0].shape[1:]))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                Program(), (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
            )
            text = json.dumps(metadata.to_dict(), ensure_ascii=False)
            torch.export.save(program, out, extra_files={METADATA: text})
    except Exception as error:  # torch raises whatever its parts raise
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{out}: the model must be exportable by torch. Received: {detail}") from None
