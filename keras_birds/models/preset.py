"""Writes a model as a folder to be shared: see `preset_fetch` for its files, and docs/share.md."""

import json
import math
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from keras_birds.atomic import write_json
from keras_birds.audio.remote import audio_error, file_system, is_url
from keras_birds.checksum import sha256_of
from keras_birds.errors import ConfigError, KerasBirdsError, ModelError
from keras_birds.models.find import resolve_model
from keras_birds.models.metadata import ModelMetadata
from keras_birds.models.preset_checks import check_keras_config, check_keras_weights, check_onnx
from keras_birds.models.preset_fetch import FORMAT_VERSION, KERAS_MEMBERS, PRESET, joined
from keras_birds.run_layout import KERAS, METADATA, ONNX

CARD = "README.md"

# Of those that hubs know (https://huggingface.co/docs/hub/repositories-licenses), what models of sound come under.
_LICENCES = re.compile(
    r"(apache-2\.0|mit|bsd-3-clause|cc0-1\.0|unlicense|cc-by(-nc)?(-sa|-nd)?-[234]\.0|gpl-3\.0|mpl-2\.0)"
)
_SHOWN_LABELS = 50


def save_preset(model: str | Path, target: str | Path, licence: str = "") -> str:
    """Writes a model as a folder to be shared, here or behind a URL, and returns its pinned address.

    ```python
    import keras_birds

    address = keras_birds.save_preset("runs/all", "my-model", licence="CC-BY-4.0")
    classifier = keras_birds.load(address)  # my-model@sha256:...
    ```

    A run's finished folds are shared as they predict, as an ensemble; name a fold's folder to share that one. The
    weights are in the folder as ONNX, and where every member has its `model.keras`, as Keras' files too. A `README.md`
    that is there already stays as it is.

    Args:
        model: as for `load`, but no `.keras` file.
        target: a new folder, one with a preset, or a URL that fsspec can write: `hf://user/model`, `s3://bucket/model`.
        licence: of the weights, where the model doesn't say it: as in https://spdx.org/licenses.

    Raises:
        ModelError: if there is no such model, or it holds what no shared model may hold.
        ConfigError: if the target can't be used, or the model has another licence.
        KerasBirdsError: if it can't be written.
    """
    paths = resolve_model(model, "onnx")
    if not is_url(target := str(target)):
        _check_folder(Path(target))
    with tempfile.TemporaryDirectory() as temporary:
        draft = Path(temporary)
        names = [""] if len(paths) == 1 else [f"fold{k}/" for k in range(len(paths))]
        with_keras = all(x.name == ONNX and x.with_name(KERAS).is_file() for x in paths)
        members = [
            _write_member(path, draft / name, licence, with_keras)
            for path, name in zip(paths, names, strict=True)
        ]
        files = sorted(x for x in draft.rglob("*") if x.is_file())
        listed = {
            x.relative_to(draft).as_posix(): {"size": x.stat().st_size, "sha256": sha256_of(x)} for x in files
        }
        write_json(draft / PRESET, {"format_version": FORMAT_VERSION, "files": listed})
        sha256 = sha256_of(draft / PRESET)
        name = re.split(r"[\\/]", target.rstrip("\\/"))[-1] or "model"
        where = target if is_url(target) else "ADDRESS"
        card = model_card(name, f"{where}@sha256:{sha256}", members, with_keras)
        (draft / CARD).write_text(card, encoding="utf-8")
        # The list comes last: until then readers have the old one, or none.
        _write(draft, [CARD, *listed, PRESET], target)
    return f"{target}@sha256:{sha256}"


def _check_folder(folder: Path) -> None:
    if not folder.exists() or (folder.is_dir() and (folder / PRESET).is_file()):
        return
    others = (
        [x.name for x in folder.iterdir() if x.name != CARD and x.name[0] != "."] if folder.is_dir() else [""]
    )
    if others:
        received = f"{folder}, with {sorted(others)[0]}" if others[0] else f"{folder}, a file"
        raise ConfigError(
            f"a model must be shared in a folder of its own. Received: {received}. Name a new one"
        )


def _write_member(path: Path, folder: Path, licence: str, with_keras: bool) -> ModelMetadata:
    metadata = ModelMetadata.read_onnx(path)
    if licence and metadata.licence and licence != metadata.licence:
        raise ConfigError(
            f"--licence is for models that don't say theirs. Received: {licence} for {path}, which is under "
            f"{metadata.licence}"
        )
    folder.mkdir(exist_ok=True)
    shutil.copyfile(path, folder / ONNX)
    if licence and not metadata.licence:
        metadata = replace(metadata, licence=licence)
        if metadata.outputs is None:
            _replace_metadata(folder / ONNX, metadata)
    metadata.write_json(folder / METADATA)
    check_onnx(folder / ONNX)
    if with_keras:
        with zipfile.ZipFile(path.with_name(KERAS)) as archive:
            for member in KERAS_MEMBERS:
                (folder / member).write_bytes(archive.read(member))
        check_keras_config(folder / "config.json")
        check_keras_weights(folder / "model.weights.h5")
    return metadata


def _replace_metadata(path: Path, metadata: ModelMetadata) -> None:
    try:
        from keras_birds.models.onnx_export import replace_metadata
    except ImportError as error:
        raise ModelError(
            f"a licence is put into a model by the package onnx. Received: {error}. Install it with pip install onnx"
        ) from None
    replace_metadata(path, metadata)


def _write(draft: Path, names: Sequence[str], target: str) -> None:
    try:
        if not is_url(target):
            for name in names:
                to = Path(target, name)
                to.parent.mkdir(parents=True, exist_ok=True)
                if name != CARD or not to.exists():
                    shutil.copyfile(draft / name, to)
            return
        files, path = file_system(target)
        for name in names:
            to_url = joined(path, name)
            if name != CARD or not files.exists(to_url):
                files.makedirs(to_url.rpartition("/")[0], exist_ok=True)
                files.put_file(str(draft / name), to_url)
    except KerasBirdsError:
        raise
    except Exception as error:  # each file system has its own
        raise KerasBirdsError(
            f"{target} can't be written. Received: {audio_error(target, error).reason}. Check the address, that it is "
            "there, and that you may write to it; or share into a folder and upload that"
        ) from None


def model_card(name: str, address: str, members: Sequence[ModelMetadata], with_keras: bool) -> str:
    """The card of a shared model as hubs read it, with what its metadata tells; its maker adds the rest."""
    first, aucs = members[0], [x.metrics.get("macro_auc", math.nan) for x in members]
    return "\n".join(
        [*_front_matter(name, first, aucs), *_card_text(name, address, members, aucs, with_keras), ""]
    )


def _front_matter(name: str, first: ModelMetadata, aucs: Sequence[float]) -> Iterator[str]:
    """YAML, of which JSON's strings are a part."""
    yield "---"
    yield "library_name: keras"
    yield "pipeline_tag: audio-classification"
    yield "tags: [keras-birds, bioacoustics, audio-classification, onnx]"
    if first.licence:
        id_ = re.sub(r"[ _]+", "-", first.licence.strip().lower())
        known = _LICENCES.fullmatch(id_)
        yield f"license: {id_}" if known else f"license: other\nlicense_name: {json.dumps(first.licence)}"
    measured = [x for x in aucs if math.isfinite(x)]
    if measured:
        mean = sum(measured) / len(measured)
        yield "metrics: [roc_auc]"
        yield f"model-index:\n- name: {json.dumps(name)}\n  results:\n  - task: {{type: audio-classification}}"
        yield "    dataset: {name: held-out folds of the training data, type: custom}"
        yield f"    metrics: [{{type: roc_auc, name: macro ROC-AUC, value: {mean:.4f}}}]"
    yield "---"


def _card_text(
    name: str, address: str, members: Sequence[ModelMetadata], aucs: Sequence[float], with_keras: bool
) -> Iterator[str]:
    first = members[0]
    audio, mel, labels = first.audio, first.mel, first.labels.items
    ensemble = (
        f"An ensemble of {len(members)} networks, whose probabilities are averaged. "
        if len(members) > 1
        else ""
    )
    low_hz, high_hz = audio.band_hz(mel)
    yield f"# {name}\n\n## What it is\n"
    yield (
        f"{ensemble}It gives each of {len(labels)} labels a probability in every {audio.window_s:g} s of a recording, "
        f"from what sounds between {low_hz:,.0f} and {high_hz:,.0f} Hz (taken at {audio.sample_rate_hz:,} Hz)."
    )
    yield "\n## Use\n"
    if address.startswith("ADDRESS"):
        yield "ADDRESS is where this folder is: a path, or a URL such as `hf://user/model`.\n"
    yield "```bash\npip install 'keras-birds[remote]'"
    yield f"keras-birds predict recording.wav --model {address}\n```\n"
    yield f'```python\nimport keras_birds\n\nclassifier = keras_birds.load("{address}")'
    yield 'classifier.scores("recording.wav")\n```'
    yield "\n## Labels\n\n| label | scientific name | common name |\n| --- | --- | --- |"
    for x in labels[:_SHOWN_LABELS]:
        yield f"| {' | '.join(y.replace('|', '/') for y in (x.name, x.scientific_name, x.common_name))} |"
    if len(labels) > _SHOWN_LABELS:
        yield f"\nAnd {len(labels) - _SHOWN_LABELS:,} more, in `model.json`."
    yield f"\n## Training data\n\n{first.source or 'Say here what it heard: whose recordings, how many, from where.'}"
    yield "\n## Figures\n\n| model | macro ROC-AUC on recordings it wasn't trained on |\n| --- | --- |"
    for member, auc in zip(members, aucs, strict=True):
        yield f"| {member.model_id} | {f'{auc:.4f}' if math.isfinite(auc) else 'not measured'} |"
    yield "\n## Limits\n"
    yield "- It knows its labels only: any other sound gets the scores of what it resembles."
    yield "- Figures are of recordings like those it was trained on; elsewhere expect less, and check a sample by ear."
    yield "- A score isn't the probability that the animal lives where you recorded."
    yield f"\n## Licence\n\n{first.licence or 'Not given: without one, nobody else may use it.'}"
    keras = "`config.json`, `metadata.json` and `model.weights.h5` are Keras', " if with_keras else ""
    yield f"\n## Files\n\n{keras}`model.onnx` predicts, with labels and settings inside; `model.json` has both to read,"
    yield "`preset.json` size and SHA-256 of all of them."
