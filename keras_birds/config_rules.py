"""Settings that are right by themselves and wrong together."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_birds.config import Config

Rules = list[tuple[object, str]]
"""What is true where a rule is broken, and the rule."""


def contradictions(config: "Config") -> list[str]:
    """The rules that settings break together, each a line that names them."""
    rules = [
        *_in_general(config),
        *_of_bounds(config),
        *_of_averages(config),
        *_without_labels(config),
        *_with_annotations(config),
        *_with_embeddings(config),
        *_without_images(config),
    ]
    return [rule for is_broken, rule in rules if is_broken]


def _in_general(config: "Config") -> Rules:
    audio, mel, data = config.audio, config.mel, config.data
    folds, model, training = config.folds, config.model, config.training
    half_hz, samples = audio.sample_rate_hz / 2, audio.clip_samples
    has_other = data.unannotated == "background" or model.backbone == "stored"
    background = "data.background must name a folder of recordings when"
    return [
        (
            mel.f_max_hz > half_hz,
            f"mel.f_max_hz must not exceed half of audio.sample_rate_hz ({half_hz:g})",
        ),
        (mel.n_fft > samples, f"mel.n_fft must not exceed the clip's {samples} samples"),
        (
            data.background_fraction and not data.background and not has_other,
            f"{background} data.background_fraction is above 0",
        ),
        (
            config.augment.background.probability and not data.background,
            f"{background} augment.background.probability is above 0",
        ),
        (
            folds.strategy != "stratified" and not folds.column,
            f'folds.column must name a column when strategy = "{folds.strategy}"',
        ),
        (
            model.prune and not model.initial,
            "model.initial must name a trained run when prune is above 0",
        ),
        (
            bool(model.initial) and model.pretrained != "none" and not model.frozen,
            'model.pretrained must be "none" when initial names a run',
        ),
        (
            training.warmup_epochs >= training.epochs,
            f"training.warmup_epochs must be below epochs ({training.epochs})",
        ),
    ]


def _of_bounds(config: "Config") -> Rules:
    """What the bounds `audio.f_low_hz` and `f_high_hz` rule out, each with its message."""
    audio, mel = config.audio, config.mel
    low_hz, high_hz = audio.f_low_hz, audio.f_high_hz
    top_hz, least_hz = audio.sample_rate_hz / 2, audio.sample_rate_hz / 2000
    beyond = f"must be below half of audio.sample_rate_hz ({top_hz:g})"
    return [
        (
            low_hz and low_hz >= (high_hz or top_hz),
            "audio.f_low_hz must be below f_high_hz and " + beyond[8:],
        ),
        (high_hz >= top_hz, f"audio.f_high_hz {beyond}"),
        (0 < low_hz < least_hz, f"audio.f_low_hz must be 0 or at least {least_hz:g}"),
        (0 < high_hz < least_hz, f"audio.f_high_hz must be 0 or at least {least_hz:g}"),
        (
            (high_hz and high_hz <= mel.f_min_hz) or low_hz >= mel.f_max_hz,
            f"audio.f_low_hz and f_high_hz must leave something of the mel's {mel.f_min_hz:g} to {mel.f_max_hz:g} Hz",
        ),
    ]


def _of_averages(config: "Config") -> Rules:
    """What an average of the weights rules out, each with its message."""
    training = config.training
    return [
        (
            (training.ema_momentum or training.swa_epochs) and training.keep != "last",
            'training.keep must be "last" with ema_momentum or swa_epochs: the average is worth most at the end',
        ),
        (
            training.ema_momentum and training.swa_epochs,
            "training.swa_epochs must be 0 with ema_momentum: there is one average of the weights",
        ),
        (
            training.swa_epochs > training.epochs,
            f"training.swa_epochs must not exceed epochs ({training.epochs})",
        ),
    ]


def _without_labels(config: "Config") -> Rules:
    """What recordings that nobody labelled rule out, each with its message."""
    data = config.data
    return [
        (
            bool(data.unlabelled) != bool(config.training.teacher),
            "data.unlabelled, a folder of recordings, and training.teacher, who labels them, must be set together",
        ),
        (
            bool(data.unlabelled and data.pseudo),
            "data.unlabelled and pseudo must not be set together: windows have labels by one or the other",
        ),
        (
            bool(data.unlabelled or data.pseudo) and data.background_fraction + data.pseudo_fraction >= 1,
            "data.background_fraction and pseudo_fraction must leave room for recordings with labels",
        ),
        (
            bool(config.model.frozen and data.pseudo),
            "data.pseudo must be empty when model.frozen: windows are learnt from as sound or images",
        ),
    ]


def _with_annotations(config: "Config") -> Rules:
    """What windows of annotated recordings rule out, each with its message."""
    audio, data, training = config.audio, config.data, config.training
    return [
        (
            data.window_overlap_s >= audio.window_s,
            f"data.window_overlap_s must be below the {audio.window_s:g} s of a recording that a clip holds",
        ),
        (
            data.unannotated == "background" and not (data.annotations and data.background_fraction),
            'data.unannotated = "background" is for data.annotations, with a data.background_fraction above 0',
        ),
        (
            data.annotations and data.store,
            "data.store, of whole recordings, must be empty with data.annotations",
        ),
        (
            data.annotations and training.teacher,
            "training.teacher, which hears whole recordings, must be empty with data.annotations",
        ),
    ]


def _with_embeddings(config: "Config") -> Rules:
    """What embeddings of a store rule out, each with its message."""
    data, model, is_stored = config.data, config.model, config.model.backbone == "stored"
    return [
        (
            bool(data.embeddings) and not is_stored,
            'model.backbone must be "stored" with data.embeddings (--config head)',
        ),
        (is_stored and not model.frozen, 'model.frozen must be true with model.backbone = "stored"'),
        (
            is_stored and bool(data.annotations or data.background),
            'data.annotations and background must be empty with model.backbone = "stored"',
        ),
        (
            model.head == "prototypes" and bool(not model.frozen or model.hidden_units),
            'model.head = "prototypes" is for a frozen backbone, without hidden_units',
        ),
    ]


def _without_images(config: "Config") -> Rules:
    """What BirdNET's backbone, which takes sound, or a frozen one rules out, each with its message."""
    model, augment, is_birdnet = config.model, config.augment, config.model.backbone == "birdnet"
    no_images = model.backbone in ("birdnet", "stored")
    sound = config.audio.sample_rate_hz, config.audio.clip_s
    off = [x for x in ("time_stretch", "pitch_shift", "volume") if getattr(augment, x).probability]
    off += ["augment"] if augment.probability else []
    off += [x for x in ("time_shift", "background") if model.frozen and getattr(augment, x).probability]
    return [
        (
            is_birdnet and sound != (48_000, 3.0),
            'audio.sample_rate_hz must be 48000 and audio.clip_s 3.0 with model.backbone = "birdnet"',
        ),
        (
            no_images and model.head == "attention",
            'model.head = "attention" is for model.backbone = "efficientnet_b0"',
        ),
        (
            no_images and model.prune,
            f'model.prune must be 0 with model.backbone = "{model.backbone}"',
        ),
        (
            no_images and config.data.store,
            f'data.store, of mel images, must be empty with "{model.backbone}"',
        ),
        (
            no_images and off,
            f"the probability of {', '.join(off)} must be 0: it changes images, and the network takes "
            + ("embeddings" if model.frozen else "sound"),
        ),
        (
            model.head_first and (not is_birdnet or model.frozen or model.pretrained == "none"),
            'model.head_first is for model.backbone = "birdnet" with weights, not frozen',
        ),
        (
            no_images and config.training.teacher,
            f'training.teacher must be empty with model.backbone = "{model.backbone}": it is for networks of '
            "one's own",
        ),
        (model.frozen and not no_images, 'model.backbone must be "birdnet" or "stored" when frozen'),
        (model.frozen and model.pretrained == "none", "model.pretrained must name a model when frozen"),
        (
            model.frozen and model.initial,
            "model.initial must be empty when frozen: the backbone is that of model.pretrained",
        ),
        (
            bool(model.hidden_units) and not no_images,
            'model.backbone must be "birdnet" or "stored" with hidden_units',
        ),
    ]
