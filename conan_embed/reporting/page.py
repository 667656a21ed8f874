"""The report: one self-contained HTML file for one run, or for several side by side.

`report` reads the run directories (`runs`), has everything arranged into plain values, a function a section
(`tables`, `panels` with its `figures`, `neighbours`, `sentences`), and fills `page.html` (jinja2; all text
is escaped). A section for which the files have nothing is empty and does not appear. The page holds no
script and loads nothing: its drawings are inline SVG, its colours and fonts those of the reader's device.
"""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

import conan_embed
from conan_embed.errors import UserError
from conan_embed.files import write_text
from conan_embed.reporting import neighbours, panels, sentences, tables
from conan_embed.reporting.runs import Run, read_runs

SECTIONS = {  # in the order of the page: key, and how the navigation calls it
    "results": "Results",
    "examples": "Examples",
    "evaluation": "Over steps",
    "scores": "Scores",
    "negatives": "Hard negatives",
    "mixing": "Mixing of tasks",
    "losses": "Losses",
    "speed": "Speed",
    "mining": "Mining",
    "facts": "Run facts",
}


def report(runs: Sequence[Path], output: Path | None = None) -> Path:
    """Write the report of one or several run directories and return its path.

    Args:
        runs: run directories as training writes them; any file in them may be missing or cut short.
        output: the HTML file; by default report.html in the first run directory.

    Raises:
        UserError: no run was named, a path is not a run directory, or the page cannot be written.
    """
    if not runs:
        raise UserError("report: no run directory was named, expected at least one.")
    output = Path(output) if output is not None else Path(runs[0]) / "report.html"
    write_text(output, render(read_runs(runs)))
    return output


def render(runs: Sequence[Run]) -> str:
    """Return the page of these runs as HTML."""
    several = len(runs) > 1
    sections: dict[str, Any] = {
        "results": tables.results(runs),
        "examples": neighbours.examples(runs),
        "evaluation": panels.evaluation(runs),
        "scores": panels.scores(runs),
        "negatives": panels.negatives(runs),
        "mixing": panels.mixing(runs),
        "losses": panels.losses(runs),
        "speed": panels.speed(runs),
        "mining": None if several else neighbours.mining(runs[0]),
        "facts": tables.facts(runs),
    }
    return template("page.html").render(
        sections,
        present={key: name for key, name in SECTIONS.items() if sections[key]},
        several=several,
        title=" · ".join(run.name for run in runs),
        headline=sentences.comparison(runs) if several else sentences.headline(runs[0]),
        lede="" if several else sentences.recipe(runs[0]),
        run_legend=panels.run_legend(runs),
        tiles=[] if several else tables.tiles(runs[0]),
        overview=tables.overview(runs) if several else [],
        widths=tables.widths(runs),
    )


def template(name: str) -> jinja2.Template:
    """Return a template of this folder, with the style, the version and the filters that all pages share."""
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"script": script, "inline": inline, "number": sentences.number}
    environment.globals |= {
        "css": Markup((folder / "page.css").read_text(encoding="utf-8")),
        "version": conan_embed.__version__,
    }
    return environment.get_template(name)


def script(text: str) -> Markup:
    """Return the HTML attributes a text needs to be set right: its language where its letters tell, its
    direction.

    Without `lang`, a browser may set Chinese in Japanese forms.
    """
    letters = {letter for letter in text if ord(letter) > 0x2FF}
    names = {unicodedata.name(letter, "").partition(" ")[0] for letter in letters}
    if names & {"HIRAGANA", "KATAKANA"}:
        return Markup(' lang="ja"')
    if "HANGUL" in names:
        return Markup(' lang="ko"')
    if "CJK" in names:
        return Markup(' lang="zh"')
    return Markup(' dir="auto"') if names & {"ARABIC", "HEBREW"} else Markup("")


def inline(svg: str, title: str) -> Markup:
    """Return a drawing of ours as markup, with its title for readers who do not see it."""
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1))
