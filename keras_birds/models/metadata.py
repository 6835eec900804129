"""What a model file says about itself: labels, audio and mel settings, so that no two programs can disagree.

The copy inside `model.onnx` is the authority; `model.json` beside it is for reading.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError

from keras_birds.atomic import atomic_path
from keras_birds.config import AudioConfig, MelConfig
from keras_birds.errors import KerasBirdsError, ModelError
from keras_birds.labels import Label, LabelSet
from keras_birds.models.calibration import Calibration
from keras_birds.models.session import open_session
from keras_birds.run_layout import METADATA

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FORMAT_VERSION = 1
"""Of the metadata; a reader refuses every other number."""

FRAME_LOGITS, EMBEDDING = "frame_logits", "embedding"
"""What a graph gives beside its logits, where it has it: logits `[batch, frame, label]` of a clip's frames in order,
and the numbers `[batch, size]` that the head takes."""

OutputKind = Literal["logits", "probabilities"]

_KEY = "keras_birds"


@dataclass(frozen=True)
class GraphOutputs:
    """What the graph of a model of others gives, by the names of its outputs.

    Args:
        kind: `"probabilities"` where a sigmoid or softmax is in the graph.
        scores: the output `[batch, label]`.
        embedding: the output `[batch, size]`; empty where there is none.
    """

    kind: OutputKind
    scores: str
    embedding: str = ""


@dataclass(frozen=True)
class ModelMetadata:
    """Everything that is needed to score audio with a model's graph.

    Args:
        model_id: names the model in every answer, for instance `"20250601-101500/fold0"`.
        labels: the outputs, in order.
        audio: how recordings become clips.
        mel: how clips become images.
        licence: of the weights; empty when unknown.
        source: which file of others the weights are from, with its SHA-256; empty for a model trained here.
        backbone_sha256: of the model file whose embeddings the head takes, which it learned from; else empty.
        metrics: for instance `{"macro_auc": 0.95}`; NaN where undefined.
        calibration: of the scores, if `keras-birds calibrate` made one.
        outputs: of a graph of others; `None` for those written here, whose outputs say by their names what they are.
    """

    model_id: str
    labels: LabelSet
    audio: AudioConfig
    mel: MelConfig
    licence: str = ""
    source: str = ""
    backbone_sha256: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    calibration: Calibration | None = None
    outputs: GraphOutputs | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain data that JSON can hold."""
        return {
            "format_version": FORMAT_VERSION,
            "model_id": self.model_id,
            "licence": self.licence,
            "source": self.source,
            **({"backbone_sha256": self.backbone_sha256} if self.backbone_sha256 else {}),
            "metrics": {k: float(v) if math.isfinite(v) else None for k, v in self.metrics.items()},
            "audio": self.audio.model_dump(mode="json"),
            "mel": self.mel.model_dump(mode="json"),
            "labels": [asdict(x) for x in self.labels.items],
            **({"calibration": asdict(self.calibration)} if self.calibration else {}),
            **({"outputs": asdict(self.outputs)} if self.outputs else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "model") -> "ModelMetadata":
        """The inverse of `to_dict`.

        Raises:
            ModelError: naming `source`, if the version is unknown, or a part is missing or wrong.
        """
        version = data.get("format_version") if isinstance(data, Mapping) else None
        if version != FORMAT_VERSION:
            raise ModelError(
                f"{source}: model metadata must have format_version {FORMAT_VERSION}. Received: {version!r}. "
                "Update keras-birds, or export the model again"
            )
        try:
            labels = LabelSet(Label(**row) for row in data["labels"])
            calibration = TypeAdapter(Calibration | None).validate_python(data.get("calibration"))
            if calibration is not None and len(calibration.labels) != len(labels):
                raise ValueError(f"calibration of {len(calibration.labels)} labels for {len(labels)}")
            return cls(
                model_id=str(data["model_id"]),
                labels=labels,
                audio=AudioConfig.model_validate(data["audio"]),
                mel=MelConfig.model_validate(data["mel"]),
                licence=str(data.get("licence", "")),
                source=str(data.get("source", "")),
                backbone_sha256=str(data.get("backbone_sha256", "")),
                metrics={k: math.nan if v is None else float(v) for k, v in data.get("metrics", {}).items()},
                calibration=calibration,
                outputs=TypeAdapter(GraphOutputs | None).validate_python(data.get("outputs")),
            )
        except ValidationError as error:
            first = error.errors()[0]
            detail = f"{'.'.join(str(x) for x in first['loc'])}: {first['msg']}"
        except KeyError as error:
            detail = f"nothing under {error}"
        except (KerasBirdsError, TypeError, ValueError, AttributeError) as error:
            detail = str(error)
        raise ModelError(
            f"{source}: model metadata must be complete. Received: {detail}. Export the model again"
        )

    def write_json(self, path: str | Path) -> None:
        """Writes the readable copy, `model.json`."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False)
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read_json(cls, path: str | Path) -> "ModelMetadata":
        """Reads what `write_json` wrote; raises `ModelError` if the file can't be read or understood."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path}: model metadata must be readable JSON. Received: {error}") from None
        return cls.from_dict(data, str(path))

    def onnx_props(self) -> dict[str, str]:
        """As an ONNX file's `metadata_props`: `to_dict()` as JSON, and plain keys for other programs."""
        return {
            _KEY: json.dumps(self.to_dict(), ensure_ascii=False),
            "format_version": str(FORMAT_VERSION),
            "model_id": self.model_id,
            "licence": self.licence,
            "labels": "\n".join(self.labels),
            "sample_rate_hz": str(self.audio.sample_rate_hz),
            "clip_s": f"{self.audio.clip_s:g}",
            **({"speed": f"{self.audio.speed:g}"} if self.audio.speed != 1 else {}),
        }

    @classmethod
    def read_onnx(cls, path: str | Path, session: "InferenceSession | None" = None) -> "ModelMetadata":
        """Reads the metadata inside an ONNX file, which may be open; of a model of others, `model.json` beside it.

        Raises:
            ModelError: if the file is damaged, or has no metadata that this version understands.
        """
        session = session or open_session(path, threads=1)
        text = session.get_modelmeta().custom_metadata_map.get(_KEY)
        if text is None:
            card = Path(path).with_name(METADATA)
            if card.is_file() and (found := cls.read_json(card)).outputs:
                return found
            raise ModelError(
                f"{path}: an ONNX model must hold keras-birds metadata (labels, audio and mel settings). "
                f"Received: none. A model of others is added once, with `keras-birds models add {path} --labels FILE "
                "--sample-rate HZ --window-s SECONDS`"
            )
        try:
            return cls.from_dict(json.loads(text), str(path))
        except ValueError as error:
            raise ModelError(f"{path}: model metadata must be JSON. Received: {error}") from None

    def check_shapes(self, path: str | Path, input_shape: Sequence, output_shape: Sequence) -> None:
        """Checks a model's shapes, batch axis included, against what the metadata says of it; images or sound.

        Raises:
            ModelError: naming both; `path` is the model's file.
        """
        is_sound = len(input_shape) == 2
        one_input = [self.audio.clip_samples] if is_sound else [self.mel.height, self.mel.width, 1]
        shapes = (*one_input,), (len(self.labels),), (*input_shape[1:],), (*output_shape[1:],)
        if shapes[:2] != shapes[2:]:
            taken, given, *received = (f"[{', '.join(map(str, ('batch', *x)))}]" for x in shapes)
            raise ModelError(
                f"{path}: the model must be what its metadata says, {taken} -> {given}. Received: "
                f"{' -> '.join(received)}. Export the model again"
            )


def check_labels(labels: Iterable[str], other: Iterable[str], name: str, other_name: str) -> None:
    """Checks that two label sets are equal, order included; the `ModelError` names what differs, positions from 1."""
    first, second = list(labels), list(other)
    if first == second:
        return
    if set(first) == set(second):
        i = next(i for i, x in enumerate(first) if x != second[i])
        detail = f"labels differ in order at position {i + 1}: {first[i]} / {second[i]}"
    else:
        missing = [x for x in second if x not in set(first)], [x for x in first if x not in set(second)]
        parts = [f"{len(first)} / {len(second)} labels"] if len(first) != len(second) else []
        for owner, names in zip((other_name, name), missing, strict=True):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                parts.append(f"only in {owner}: {', '.join(names[:5])}{more}")
        detail = "; ".join(parts)
    raise ModelError(
        f"The labels of {name} and {other_name} must be the same in the same order. Received: {detail}"
    )


def check_members(first: ModelMetadata, other: ModelMetadata, first_name: str, other_name: str) -> None:
    """Checks that two models may be members of one ensemble; the `ModelError` names in what they differ."""
    check_labels(first.labels, other.labels, first_name, other_name)
    for section in ("audio", "mel"):
        a, b = getattr(first, section).model_dump(), getattr(other, section).model_dump()
        for key in a:
            # Where training took its crops doesn't matter to sliding windows.
            if a[key] != b[key] and (section, key) != ("audio", "crop"):
                raise ModelError(
                    f"The members of an ensemble must have the same {section} settings. Received: {section}.{key} is "
                    f"{a[key]} in {first_name} and {b[key]} in {other_name}"
                )


def joined_id(ids: Sequence[str]) -> str:
    """An ensemble's model id: `20250601-101500/fold0+fold1` of two folds of a run."""
    run = ids[0].rpartition("/")[0]
    return "+".join([ids[0], *(x.removeprefix(f"{run}/") for x in ids[1:])])
