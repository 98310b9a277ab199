"""A sheet to draw on, and the finished drawing as SVG that takes its colours from the page around it.

Knows colours, text and matplotlib. Knows nothing of plans. Matplotlib is loaded when something is drawn, not before.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "paper": ("#ffffff", "#15181c"),
    "ink": ("#1d2328", "#e4e8ec"),
    "faint": ("#5a6570", "#9aa5b0"),
    "track": ("#e8ebee", "#2a3037"),
    "other": ("#b4bdc6", "#4f5a65"),
    "accent": ("#0f7b8a", "#45b5c4"),
    "attention": ("#77aadd", "#33679c"),
    "mlp": ("#ee8866", "#a3492a"),
    "vocabulary": ("#44bb99", "#1f7359"),
    "push": ("#ffaabb", "#95465a"),
    "pull": ("#b5b52b", "#6b6b12"),
    "weights": ("#99ddff", "#2b6d8f"),
    "cache": ("#bbcc33", "#616e10"),
    "workspace": ("#eedd88", "#7d6b1c"),
}
"""By name: on a light page, on a dark page. The hues are Paul Tol's "light" scheme, which the colour-blind can tell
apart and on which ink can be read.
"""
SETTINGS: dict[Any, object] = {
    "font.size": 10,
    "text.parse_math": False,  # a device may be called $x$
    "text.color": "ink",
    "axes.edgecolor": "faint",
    "axes.labelcolor": "faint",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlecolor": "ink",
    "xtick.color": "faint",
    "ytick.color": "faint",
    "svg.fonttype": "none",
}
LIGHT = {name: light for name, (light, _) in COLOURS.items()}
MAX_NAME = 40
_SVG, _LINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}href"


def printable(text: str) -> str:
    """`text` with a replacement for every character that cannot be shown, or that would change how others are."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def short(text: str, longest: int = MAX_NAME) -> str:
    """`text` as a label: printable, and cut in the middle where it is long."""
    text = printable(text)
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[1 - half :]}"


@contextmanager
def drawing() -> Iterator[None]:
    """Figures made and saved in here look alike on every machine, whatever matplotlib settings the user has."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({key: LIGHT.get(str(value), value) for key, value in SETTINGS.items()})
        yield


def sheet(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` SVG pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72)


def panel(figure: Figure, left: float, top: float, right: float, bottom: float) -> Axes:
    """Axes that leave so many pixels free on each side, bare of spines and ticks, y downwards."""
    width, height = figure.get_size_inches() * 72
    inner = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes(inner)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.invert_yaxis()
    return axes


def titled(text: str) -> str:
    """A gid that shows `text` when the pointer rests on the artist."""
    return f"title:{printable(text)}"


def themed_svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an SVG element for a page that defines `--NAME` for each colour. `name` is unique in the page,
    `label` says what is seen to those who cannot see it.
    """
    import matplotlib

    buffer = BytesIO()
    matplotlib.rcParams["svg.hashsalt"] = name  # equal clips of two figures must not share an id
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _tidy(root)
    root.set("role", "img")
    root.set("aria-label", printable(label))
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _LINK[1:-5])
    return ElementTree.tostring(root, encoding="unicode")


def _tidy(root: ElementTree.Element) -> None:
    """Without size, metadata, rules for the whole page and ids that nothing refers to; colours by name."""
    styles = [element.get("style", "") + element.get("clip-path", "") for element in root.iter()]
    used = set(re.findall(r"url\(#([^)]+)\)", " ".join(styles)))
    used |= {link[1:] for element in root.iter() if (link := element.get(_LINK))}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        identity = element.get("id", "")
        if identity not in used:
            element.attrib.pop("id", None)
        if identity.startswith("title:"):
            title = ElementTree.Element(f"{{{_SVG}}}title")
            title.text = identity.removeprefix("title:")
            element.insert(0, title)
        if "style" in element.attrib:
            element.set("style", re.sub(r"#[0-9a-f]{6}", _by_name, element.get("style", "")))
    for size in ("width", "height"):
        root.attrib.pop(size, None)


def _by_name(match: re.Match[str]) -> str:
    return next((f"var(--{name})" for name, light in LIGHT.items() if light == match[0]), match[0])
