"""Pictures and figures of every activation and gated unit, computed by the library itself.

`python -m fused_acts gallery` writes them as a page, `picture` one alone; drawing needs matplotlib.
"""

from pathlib import Path


def picture(name: str, path: str | Path, **options: float) -> None:
    """Writes the curves, and of a gated unit the map, of a row, also of one's own.

    Args:
        name: one of `fused_acts.variants()` or `fused_acts.activations()`.
        path: of the picture; its suffix says the format, such as .svg or .png.
        options: parameters of the row, and limit.

    Raises ValueError for an unknown name, an option that the row does not have, or where it is not
    finite.
    """
    from fused_acts.gallery import draw, entry, figures

    (found,) = entry.entries([name], **options)
    draw.draw_alone(found, figures.figures(found), Path(path))
