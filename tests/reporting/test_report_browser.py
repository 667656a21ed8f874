"""The page in a real browser, at the widths of a desk and of a phone, light and dark. Skipped without chromium."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from conan_embed.reporting.page import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--dump-dom",
]

# The page under test stands in a frame of a given width; once it is there, the frame's script measures it.
FRAME = """<!DOCTYPE html>
<meta charset="utf-8">
<iframe id="frame" width="{width}" height="900" srcdoc="{page}"></iframe>
<pre id="found"></pre>
<script>
frame.onload = () => {{
  const page = frame.contentDocument;
  const room = page.documentElement.clientWidth;
  const style = (element) => frame.contentWindow.getComputedStyle(element);
  const all = (where, selector) => [...where.querySelectorAll(selector)];
  all(page, "details").forEach((details) => (details.open = true));
  found.textContent = JSON.stringify({{
    overflow: page.documentElement.scrollWidth - room,
    outside: all(page, "body *")
      .filter((element) => !element.closest("svg, .scroll, pre, .sides.many"))
      .filter((element) => element.getBoundingClientRect().right > room + 1)
      .map((element) => element.outerHTML.slice(0, 80)),
    figures: all(page, "svg").filter((svg) => svg.getClientRects().length > 0).map((svg) => ({{
      title: svg.getAttribute("aria-label"),
      width: svg.getBoundingClientRect().width,
      text: Math.min(...all(svg, "text").map((text) => text.getBoundingClientRect().height)),
      data: all(svg, ".data path[clip-path]").map((path) => path.getTotalLength()),
      colours: all(svg, ".data path[clip-path]").map(style)
        .map((seen) => (seen.stroke == "none" ? seen.fill : seen.stroke)),
    }})),
    bars: all(page, ".bar").filter((bar) => bar.style.width != "0%" && bar.style.width != "0.0%")
      .map((bar) => bar.getBoundingClientRect()).map((box) => ({{ width: box.width, height: box.height }})),
    chinese: all(page, "[lang=zh]").map((element) => element.textContent),
    replaced: page.body.textContent.includes("\ufffd"),
    background: style(page.body).backgroundColor,
    ink: style(page.body).color,
  }});
}};
</script>"""


def _open(page: str, folder: Path, width: int, *, dark: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Return what the browser measured on a page, and its console messages."""
    outer = folder / "outer.html"
    outer.write_text(FRAME.format(width=width, page=html.escape(page)), encoding="utf-8")
    mode = ["--force-dark-mode"] if dark else []
    command = [str(CHROMIUM), *FLAGS, *mode, f"--user-data-dir={folder / 'profile'}", outer.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), re.findall(r"CONSOLE.*", done.stderr)


def _brightness(colour: str) -> float:
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 765


@pytest.fixture(scope="module")
def pages(
    dynamic: Path, static: Path, filtered: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    return {
        "one": report([dynamic], folder / "one.html").read_text(encoding="utf-8"),
        "several": report([dynamic, static], folder / "several.html").read_text(encoding="utf-8"),
        "filter": report([filtered], folder / "filter.html").read_text(encoding="utf-8"),
    }


# 7 tasks; positives and negatives; 5 of the checks; 3 losses; 3 of speed and optimisation
FIGURES = {
    "one": 7 + 1 + 5 + 3 + 3,
    "several": 7 + 1 + 5 + 3 + 3,
    "filter": 1 + 2,
}  # by category; two histograms
CHINESE = {
    "one": "小孩发烧到三十九度怎么办？",
    "several": "小孩发烧到三十九度怎么办？",
    "filter": "如何在 TiDB 中查看慢查询？",
}
# Bars: nine stages of the funnel, and what eight of them took; six reasons (in two of which more applied), two
# sources and nine stages' time.
BARS = {"one": 9 + 8, "several": 9 + 8, "filter": 9 + 8 + 6 + 2 + 2 + 9}


@pytest.mark.parametrize(
    ("which", "width", "dark"),
    [
        *(("one", 390, True), ("one", 1280, False), ("several", 390, False)),
        *(("filter", 390, False), ("filter", 1280, True)),
    ],
)
def test_the_page_fits_and_every_figure_has_data(pages, tmp_path, which, width, dark):
    found, messages = _open(pages[which], tmp_path, width, dark=dark)
    assert messages == []
    assert found["overflow"] == 0
    assert found["outside"] == []
    assert not found["replaced"]  # no letter was lost on the way
    assert any(CHINESE[which] in text for text in found["chinese"])
    assert len(found["figures"]) == FIGURES[which]
    assert len(found["bars"]) == BARS[which]
    assert all(bar["height"] > 10 and bar["width"] > 0 for bar in found["bars"])
    for figure in found["figures"]:
        title = figure["title"]
        assert figure["data"], title
        assert all(length > 5 for length in figure["data"]), title
        assert figure["width"] > 140, title
        assert figure["text"] > 8, title  # pixels: small, but to be read
        for colour in figure["colours"]:
            assert abs(_brightness(colour) - _brightness(found["background"])) > 0.25, title
    assert (_brightness(found["background"]) < 0.3) == dark
    assert (_brightness(found["ink"]) > 0.7) == dark


def test_the_browser_would_have_told(tmp_path):
    """The measurements above see what they look for: an error, a page too wide, a figure without data."""
    broken = (
        "<body><script>nothing.there()</script><div style='width: 900px'>wide</div>"
        "<svg aria-label='empty' viewBox='0 0 9 9'><g class='data'></g></svg>"
    )
    found, messages = _open(broken, tmp_path, 390)
    assert len(messages) == 1
    assert "nothing is not defined" in messages[0]
    assert found["overflow"] > 400
    assert len(found["outside"]) == 1
    assert [figure["data"] for figure in found["figures"]] == [[]]
