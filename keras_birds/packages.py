"""Packages that only some work needs: one line says which is missing and how to get it, before that work begins."""

from collections.abc import Sequence
from importlib.util import find_spec

from keras_birds.errors import ConfigError

# Packages of Keras' other backends, each with an extra of its name; what else is missing belongs to every installation.
_BACKENDS = ("jax", "tensorflow")
# Modules whose package has another name.
_NAMES = {"sklearn": "scikit-learn"}


def require_packages(what: str, extra: str, modules: Sequence[str], otherwise: str = "") -> None:
    """Raises a `ConfigError` if one of the modules isn't installed; imports none.

    Args:
        what: needs them, as the user knows it: `"--ray"`.
        extra: the extra of keras-birds that has them.
        modules: names as in `import NAME`.
        otherwise: another way out, for instance `", or pass --set model.pretrained=none"`.
    """
    if missing := [x for x in modules if find_spec(x) is None]:
        raise not_installed(what, extra, missing, otherwise)


def not_installed(what: str, extra: str, modules: Sequence[str], otherwise: str = "") -> ConfigError:
    """The error to raise where modules of an extra aren't there."""
    names = " and ".join(map(_package, modules))
    return ConfigError(
        f"{what} needs {names}. Received: not installed here. Install it: pip install 'keras-birds[{extra}]'{otherwise}"
    )


def describe_missing(module: str) -> str:
    """What to say where an import failed that nothing asked about: on machines that only predict, or of a backend."""
    name = module.partition(".")[0]
    wanted = f"'keras-birds[{name}]'" if name in _BACKENDS else "keras-birds"
    return f"This needs the package {_package(name)}. Received: not installed here. Install it: pip install {wanted}"


def _package(module: str) -> str:
    return _NAMES.get(module, module.replace("_", "-"))
