"""The look of all drawings: matplotlib figures turned into one inline `<svg>` each.

matplotlib draws with stand-in colours that are replaced by the page's CSS variables, so that one drawing serves light
and dark. Numbers stay text, set in the page's own fonts; names (which may be in any script) never enter a drawing:
titles and legends are HTML around it. Data carry the class `data`.
"""

import io
import re
import xml.etree.ElementTree as ElementTree
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from conan_embed.reporting import sentences

# Stand-in colours, as matplotlib writes them into the SVG; #fe00NN stands for var(--series-N).
MUTED, GRID = "#fe0101", "#fe0102"
_CSS_OF_STAND_IN = {MUTED: "var(--muted)", GRID: "var(--line)"}
NUM_SERIES = 8  # colours that page.css defines; further runs start again from the first

WIDE, NARROW, SMALL, TILE = (1000, 300), (380, 260), (330, 180), (190, 104)  # CSS pixels
TICK_STEPS = [1, 2, 2.5, 5, 10]  # distances of ticks that people count in

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.formatter.useoffset": False,
    "lines.solid_capstyle": "round",
    "path.simplify_threshold": 0.2,
}


def colour(series: int) -> str:
    """Return the stand-in colour of a series (0, 1, ...)."""
    return f"#fe00{series % NUM_SERIES + 1:02x}"


def style(salt: str) -> AbstractContextManager[None]:
    """The look of all drawings; `salt` enters the ids that matplotlib makes up for what a drawing refers
    to."""
    return matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt})


def canvas(size: tuple[int, int], last_step: int = 1, foot: int = 24) -> tuple[Figure, Axes]:
    """A transparent figure of that many CSS pixels (at 72 dots an inch points are pixels) over steps 0 to
    `last_step`, with fixed margins (`foot` below the axis), so that axes of figures side by side are aligned."""
    width, height = size
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    FigureCanvasSVG(figure)
    left, right, top = 36, 10, 8
    axes = figure.add_axes(
        (left / width, foot / height, (width - left - right) / width, (height - top - foot) / height)
    )
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    axes.set_xlim(-0.01 * last_step, 1.01 * last_step)
    axes.xaxis.set_major_locator(MaxNLocator(min(10, width // 60), steps=TICK_STEPS, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
    axes.yaxis.set_major_formatter(FuncFormatter(thousands))
    return figure, axes


def as_inline_svg(figure: Figure) -> str:
    """Return the figure as one `<svg>` element for a page: without a size, fonts and colours those of the
    page, no ids but those that the drawing itself refers to, coordinates to a tenth of a pixel."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(text.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    referred = set(re.findall(r"#(\w+)", text.getvalue()))
    for element in root.iter():
        name = element.get("id")
        if name is not None and name not in referred:
            del element.attrib["id"]
            if name == "data":
                element.set("class", "data")
        for key in {"d", "x", "y", "transform"} & element.attrib.keys():
            element.set(key, " ".join(re.sub(r"\d+\.\d+", _tenths, element.attrib[key]).split()))
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
        if look := element.get("style"):
            look = re.sub(r"font-family: [^;]+;? ?", "", look)
            element.set("style", re.sub(r"#fe[0-9a-f]{4}", _css_colour, look))
    for key in ("width", "height", "version"):
        del root.attrib[key]
    return re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode"))


def _tenths(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")


def _css_colour(stand_in: re.Match[str]) -> str:
    return _CSS_OF_STAND_IN.get(stand_in[0]) or f"var(--series-{int(stand_in[0][-2:], 16)})"


def scientific(value: float, _: Any = None) -> str:
    return sentences.scientific(value) if value else "0"


def per_cent(value: float, _: Any = None) -> str:
    return f"{100 * value:g}%"


def thousands(value: float, _: Any = None) -> str:
    """8200 as 8.2k, because a tick has little room."""
    text = f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"
    return text.replace("-", "\N{MINUS SIGN}")
