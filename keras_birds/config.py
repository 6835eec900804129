"""Settings: one validated, frozen `Config`, read from TOML and overridden by `section.key=value`."""

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from keras_birds.config_rules import contradictions
from keras_birds.errors import ConfigError, KerasBirdsError
from keras_birds.resources import resource

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("must be [low, high] with low <= high")
    return bounds


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
CountRange = Annotated[tuple[Count, Count], AfterValidator(_ordered)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AudioConfig(_Section):
    """How a recording becomes clips.

    Every setting counts in the seconds and Hz that the model gets, and every result in the recording's own. Both are
    the same at `speed` 1. At 0.1 (time expansion) a recording of 384 kHz is taken as one of 38.4 kHz, ten times as
    long, before it is resampled to `sample_rate_hz`. Frequencies `f_low_hz` and `f_high_hz` bound what is kept of it;
    0 is no bound.
    """

    sample_rate_hz: Annotated[int, Field(ge=1000, le=1_000_000)] = 32_000
    clip_s: Positive = 5.0
    speed: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    f_low_hz: Annotated[float, Field(ge=0)] = 0.0
    f_high_hz: Annotated[float, Field(ge=0)] = 0.0
    crop: Literal["center", "random"] = "center"
    fill: Literal["repeat", "silence"] = "repeat"
    decoder: Literal["soundfile", "tfio"] = "soundfile"

    @property
    def clip_samples(self) -> int:
        """Samples in a clip."""
        return round(self.sample_rate_hz * self.clip_s)

    @property
    def resample_hz(self) -> int:
        """Rate that recordings are resampled to, in their own seconds: 320 kHz for a model's 32 kHz at a tenth."""
        return round(self.sample_rate_hz / self.speed)

    @property
    def window_s(self) -> float:
        """Length of a clip in the recording's own seconds."""
        return round(self.clip_s * self.sample_rate_hz / self.resample_hz, 9)

    def band_hz(self, mel: "MelConfig") -> tuple[float, float]:
        """The lowest and the highest frequency that a model hears, in the recording's own Hz."""
        low_hz, high_hz = max(mel.f_min_hz, self.f_low_hz), min(mel.f_max_hz, self.f_high_hz or mel.f_max_hz)
        # Without the last digits, which come of a speed like 0.1.
        return round(low_hz / self.speed, 6), round(high_hz / self.speed, 6)


class MelConfig(_Section):
    """How a clip becomes the model's input, `[height, width, 1]` in [0, 1]."""

    feature: Literal["mel", "mfcc"] = "mel"
    n_fft: Count = 1024
    hop_samples: Count = 512
    n_mels: Count = 128
    n_mfcc: Count = 40
    f_min_hz: Annotated[float, Field(ge=0)] = 50.0
    f_max_hz: Positive = 14_000.0
    top_db: Positive = 80.0
    height: Count = 256
    width: Count = 256

    @model_validator(mode="after")
    def _order(self) -> "MelConfig":
        if self.f_min_hz >= self.f_max_hz:
            raise ValueError(f"f_min_hz must be below f_max_hz ({self.f_max_hz:g})")
        if self.n_mfcc > self.n_mels:
            raise ValueError(f"n_mfcc must not exceed n_mels ({self.n_mels})")
        return self


class DataConfig(_Section):
    """Which recordings, and what their columns are called."""

    dir: str = ""
    table: str = "train.csv"
    taxonomy: str = "taxonomy.csv"
    audio_dir: str = "train_audio"
    store: str = ""
    column_path: str = "filename"
    column_label: str = "primary_label"
    column_secondary: str = "secondary_labels"
    column_rating: str = "rating"
    column_collection: str = "collection"
    column_author: str = "author"
    column_latitude: str = "latitude"
    column_longitude: str = "longitude"
    min_rating: Annotated[float, Field(ge=0, le=5)] = 0.0
    collections: tuple[str, ...] = ()
    secondary: Literal["positive", "mask", "ignore"] = "positive"
    secondary_weight: Annotated[float, Field(gt=0, le=1)] = 1.0
    annotations: str = ""
    annotation_overlap: Annotated[float, Field(gt=0, le=1)] = 0.5
    unannotated: Literal["negative", "background", "mask"] = "negative"
    window_overlap_s: Annotated[float, Field(ge=0)] = 0.0
    reviews: str = ""
    background: str = ""
    background_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    unlabelled: str = ""
    pseudo: str = ""
    pseudo_teachers: Literal["fold", "all"] = "fold"
    pseudo_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5
    pseudo_sampling: Literal["even", "label_sum"] = "even"
    pseudo_per_label: Annotated[int, Field(ge=0)] = 0
    embeddings: str = ""


class FoldsConfig(_Section):
    """How recordings are divided."""

    strategy: Literal["stratified", "grouped", "column"] = "stratified"
    n_folds: Annotated[int, Field(ge=2)] = 5
    column: str = ""
    hidden_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    seed: int = 42


class ModelConfig(_Section):
    """The network."""

    backbone: Literal["efficientnet_b0", "birdnet", "stored"] = "efficientnet_b0"
    head: Literal["pool", "attention", "prototypes"] = "pool"
    hidden_units: Annotated[int, Field(ge=0)] = 0
    pretrained: str = "imagenet"
    frozen: bool = False
    head_first: bool = False
    initial: str = ""
    prune: Annotated[float, Field(ge=0, lt=1)] = 0.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.2

    @property
    def input_kind(self) -> Literal["mel", "waveform", "embedding"]:
        """What training feeds: mel images, sound, or embeddings that a frozen backbone gave once."""
        if self.backbone == "efficientnet_b0":
            return "mel"
        return "embedding" if self.frozen else "waveform"


class MixUpConfig(_Section):
    """Mixup of whole batches; alpha is both parameters of the Beta distribution."""

    probability: Probability = 1.0
    alpha: Positive = 0.5
    partner: Literal["any", "pseudo"] = "any"


class MaskConfig(_Section):
    """`count` masks of `size` rows or columns, both drawn from closed ranges."""

    probability: Probability = 0.5
    count: CountRange = (1, 3)
    size: CountRange = (5, 20)


class GainConfig(_Section):
    """`image * U(gain) + U(bias)`, kept in [0, 1]."""

    probability: Probability = 0.5
    gain: Range = (0.8, 1.2)
    bias: Range = (-0.1, 0.1)


class TimeShiftConfig(_Section):
    """Rotation in time by any number of columns: what leaves at one end comes in at the other."""

    probability: Probability = 0.0


class StretchConfig(_Section):
    """Time stretch by a rate drawn from a range; above 1 is faster."""

    probability: Probability = 0.0
    rate: PositiveRange = (0.8, 1.25)


class PitchConfig(_Section):
    """Pitch shift by a number of semitones drawn from a range."""

    probability: Probability = 0.0
    semitones: Range = (-2.0, 2.0)


class VolumeConfig(_Section):
    """Level change in dB drawn from a range, relative to the clip's `top_db` floor."""

    probability: Probability = 0.0
    gain_db: Range = (-12.0, 6.0)


class BackgroundConfig(_Section):
    """Sound of a clip from `data.background` under the clip's own, its maximum that many dB below the clip's."""

    probability: Probability = 0.0
    snr_db: Range = (0.0, 20.0)


class AugmentConfig(_Section):
    """Augmentation of training clips; `probability` gates the masks and the gain together, per clip."""

    probability: Probability = 0.5
    mixup: MixUpConfig = MixUpConfig()
    time_mask: MaskConfig = MaskConfig()
    frequency_mask: MaskConfig = MaskConfig()
    gain: GainConfig = GainConfig()
    time_shift: TimeShiftConfig = TimeShiftConfig()
    time_stretch: StretchConfig = StretchConfig()
    pitch_shift: PitchConfig = PitchConfig()
    volume: VolumeConfig = VolumeConfig()
    background: BackgroundConfig = BackgroundConfig()


class TrainingConfig(_Section):
    """The optimisation."""

    epochs: Count = 10
    keep: Literal["best", "last"] = "best"
    batch_size: Annotated[int, Field(ge=2)] = 32
    learning_rate: Positive = 5e-4
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    final_learning_rate: Annotated[float, Field(ge=0)] = 1e-6
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    focal_gamma: Annotated[float, Field(ge=0)] = 0.0
    class_weights: Probability = 0.0
    ema_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    swa_epochs: Annotated[int, Field(ge=0)] = 0
    soft_auc: Probability = 0.0
    teacher: str = ""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    workers: Annotated[int, Field(ge=0)] = 2
    seed: int = 42


class ContrastiveConfig(_Section):
    """Pretraining without labels (`keras-birds pretrain`): two views of a clip lie closer than those of two clips."""

    view_s: Positive = 2.5
    similarity: Literal["cosine", "bilinear"] = "cosine"
    temperature: Positive = 0.1
    projection_units: Count = 128
    use_labels: bool = False
    neighbours: Count = 10


class Config(_Section):
    """Every setting of a run; the defaults are those of `configs/baseline.toml`, which says where each comes from."""

    audio: AudioConfig = AudioConfig()
    mel: MelConfig = MelConfig()
    data: DataConfig = DataConfig()
    folds: FoldsConfig = FoldsConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig()
    contrastive: ContrastiveConfig = ContrastiveConfig()

    @model_validator(mode="after")
    def _together(self) -> "Config":
        if told := contradictions(self):
            raise ValueError("; ".join(told))
        return self

    def require_images(self, command: str) -> None:
        """A `ConfigError` for a command that makes no sense where the network takes no mel images."""
        if self.model.input_kind != "mel":
            raise ConfigError(
                f"{command} is for networks that take mel images. Received: model.backbone = {self.model.backbone}, "
                "which takes sound"
            )

    @classmethod
    def load(cls, name_or_path: str | Path = "baseline", overrides: Iterable[str] = ()) -> "Config":
        """Reads a shipped configuration by name or a TOML file by path, then applies overrides.

        Args:
            name_or_path: `"baseline"`, `"smoke"`, ... or the path of a `.toml` file.
            overrides: `"section.key=value"` strings; the value is TOML, a bare word counts as a string.

        Raises:
            ConfigError: naming every wrong key and value at once, with the nearest right key.
        """
        path = _find(name_or_path)
        try:
            settings = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            rule = f"{path}: a configuration must be a readable TOML file"
            raise ConfigError(f"{rule}. Received: {error}") from None
        for override in overrides:
            _apply(settings, override)
        return cls.parse(settings, source=str(path))

    @classmethod
    def parse(cls, settings: Mapping[str, Any], source: str = "config") -> "Config":
        """Validates plain data; a `ConfigError` names every wrong key and value at once."""
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise ConfigError(f"{source}: {_explain(error)}") from None

    def to_toml(self) -> str:
        """All settings as TOML that `Config.load` reads back to an equal `Config`."""
        lines, section = [], ""
        for key, value in _flat(self.model_dump(mode="json")).items():
            table, _, name = key.rpartition(".")
            lines += ["", f"[{table}]"] if table != section else []
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
            section = table
        return "\n".join(lines[1:]) + "\n"


def _find(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if text.endswith(".toml") or "/" in text:
        if not Path(text).is_file():
            raise ConfigError(f"--config must be an existing TOML file. Received: {text}")
        return Path(text)
    try:
        return resource("configs", f"{text}.toml")
    except KerasBirdsError:
        known = ", ".join(sorted(p.stem for p in resource("configs").glob("*.toml")))
        rule = f"--config must be the path of a TOML file or one of: {known}"
        raise ConfigError(f"{rule}. Received: {text}") from None


def _apply(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set takes section.key=value. Received: {override}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = settings
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set: {part} is a value, not a section. Received: {override}")
    table[parts[-1]] = value


def _explain(error: ValidationError) -> str:
    keys = [key.split(".") for key in _flat(Config().model_dump())]
    known = {part for key in keys for part in accumulate(key, "{}.{}".format)}
    problems = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, known, 1, 0.5)
            problems.append(f"unknown key {key}" + (f" (did you mean {near[0]}?)" if near else ""))
        else:
            message = item["msg"].removeprefix("Value error, ")
            received = "" if isinstance(item["input"], dict | BaseModel) else f". Received: {item['input']!r}"
            problems.append(f"{key}: {message}{received}" if key else message + received)
    return "; ".join(problems)


def diff_configs(stored: Config, wanted: Config) -> dict[str, tuple[Any, Any]]:
    """Both values of every setting that differs, by its dotted key; what a result doesn't depend on isn't compared."""
    found = diff_settings(_flat(stored.model_dump(mode="json")), _flat(wanted.model_dump(mode="json")))
    without_effect = ("data.dir", "data.store", "training.workers")
    return {key: values for key, values in found.items() if key not in without_effect}


def diff_settings(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Both values of every key that differs, in the order of the keys; what one of them lacks is `None` there."""
    keys = dict.fromkeys([*stored, *wanted])
    return {x: (stored.get(x), wanted.get(x)) for x in keys if stored.get(x) != wanted.get(x)}


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat
