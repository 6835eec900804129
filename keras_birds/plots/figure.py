"""What all figures share: colours, quiet axes, and a PNG that no name can spoil."""

import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from keras_birds.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#2a6f97", "#e07a1f", "#2f9e6e", "#b0417e", "#8a6d3b", "#5e60ce", "#c9a227", "#4d5b6a")


def png(figure: "Figure", dpi: int = 110) -> bytes:
    """A figure as a PNG."""
    buffer = BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes, and that is all there is to say.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def save_png(figure: "Figure", path: str | Path, dpi: int = 110) -> None:
    """Writes a figure as a PNG.

    Raises:
        KerasBirdsError: if it can't be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(png(figure, dpi))


def tidy(*axes: "Axes") -> None:
    """No frame above and at the right, and a faint grid behind what is drawn."""
    for x in axes:
        x.spines[["top", "right"]].set_visible(False)
        x.set_axisbelow(True)
        x.grid(color="#dddddd", linewidth=0.6)
