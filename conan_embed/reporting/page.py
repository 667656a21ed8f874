"""The report: one self-contained HTML file for one run, for several side by side, or for the output of a filter.

`report` reads the run directories (`runs`), has everything arranged into plain values, a function a section
(`tables`, `panels` with its `figures`, `neighbours`, `filters`, `sentences`), and fills `page.html` (jinja2; all text
is escaped). The output of a filter has a page of its own (`filters`, `filtered.html`). A section for which the files
have nothing is empty and does not appear. A page holds no script and loads nothing: its drawings are inline SVG, its
colours and fonts those of the reader's device.
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
from conan_embed.reporting import filters, neighbours, panels, scores, sentences, tables
from conan_embed.reporting.runs import RunFiles, read_runs

SECTIONS = {  # in the order of the page: key, and how the navigation calls it
    "results": "Results",
    "examples": "Examples",
    "evaluation": "Over steps",
    "scores": "Scores",
    "negatives": "Hard negatives",
    "mixing": "Mixing of tasks",
    "losses": "Losses",
    "speed": "Speed",
    "hardest": "Hardest negatives",
    "mining": "Mining",
    "filters": "Data filter",
    "details": "Run details",
}


def report(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Write the report of one or several run directories, or of one filter output, and return its path.

    Args:
        folders: run directories as training writes them; any file in them may be missing or cut short. Or one
            folder that `conan-embed filter` wrote.
        output: the HTML file; by default report.html in the first folder.

    Raises:
        UserError: no folder was named, one is neither a run directory nor a finished filter output, both kinds
            were named or several filter outputs, or the page cannot be written.
    """
    if not folders:
        raise UserError("report: no folder was named, expected run directories or the output of a filter.")
    folders = [Path(folder) for folder in folders]
    filtered = [folder for folder in folders if filters.is_filter_output(folder)]
    if filtered and len(folders) > 1:
        other = next((folder for folder in folders if folder not in filtered), None)
        raise UserError(
            f"report: {filtered[0]} is the output of a filter"
            + (f" and {other} is none" if other else f", and so is {filtered[1]}")
            + "; a filter output has a page of its own, name it alone."
        )
    output = Path(output) if output is not None else folders[0] / "report.html"
    if filtered:
        from conan_embed.reporting import filter_sections  # which needs `template`

        page = filter_sections.render(filters.read_filtered(folders[0]))
    else:
        page = render(read_runs(folders))
    write_text(output, page)
    return output


def render(runs: Sequence[RunFiles]) -> str:
    """Return the page of these runs as HTML."""
    several = len(runs) > 1
    sections: dict[str, Any] = {
        "results": scores.results(runs),
        "examples": neighbours.examples(runs),
        "evaluation": panels.evaluation(runs),
        "scores": panels.scores(runs),
        "negatives": panels.negatives(runs),
        "mixing": panels.mixing(runs),
        "losses": panels.losses(runs),
        "speed": panels.speed(runs),
        "hardest": None if several else neighbours.hardest(runs[0]),
        "mining": None if several else neighbours.mining(runs[0]),
        "filters": filters.behind_runs(runs),
        "details": tables.details(runs),
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
        widths=scores.widths(runs),
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
