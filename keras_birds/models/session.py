"""ONNX Runtime's sessions: which provider computes, with how many threads, in what batches."""

from pathlib import Path
from typing import TYPE_CHECKING

from keras_birds.errors import ConfigError, ModelError, detail_of
from keras_birds.threads import available_cpus

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions


def open_session(
    path: str | Path, threads: int | None = None, provider: str = "CPUExecutionProvider"
) -> "InferenceSession":
    """Opens an ONNX file, in ONNX Runtime's name of a provider; raises `ModelError` if it is missing or damaged.

    `threads` is for one run; `None` for all processors that this process may use.
    """
    import onnxruntime

    path = Path(path)
    if not path.is_file():
        raise ModelError(f"The model must be an existing file. Received: {path}")
    options = session_options(threads)
    providers = list(dict.fromkeys((provider, "CPUExecutionProvider")))
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # one class for each status code, without a common base
        raise ModelError(
            f"{path}: must be a whole ONNX file. Received: {path.stat().st_size} bytes that ONNX Runtime "
            f"refuses ({detail_of(error)}). Copy or export the model again"
        ) from None


def session_options(threads: int | None = None) -> "SessionOptions":
    """How a session computes, with `threads` as `open_session` has them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_cpus()
    options.log_severity_level = 4  # errors are raised; logged beside that they would be told twice
    return options


def choose_provider(name: str | None) -> str:
    """ONNX Runtime's name of a provider, of `"cpu"` `"CPUExecutionProvider"`; a `ConfigError` names those there are."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if name is None:
        return "CUDAExecutionProvider" if "CUDAExecutionProvider" in available else "CPUExecutionProvider"
    short = {x.removesuffix("ExecutionProvider").lower(): x for x in available}
    if name.lower() not in short:
        raise ConfigError(f"--provider must be one of {', '.join(sorted(short))}. Received: {name}")
    return short[name.lower()]
