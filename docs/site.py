"""What mkdocs calls while it builds the site: pages made from the rest of the repository, links, a complete reference.

- Results and experiments stand beside docs/, where GitHub shows them; here they become pages of the site.
- Links are written for the repository (`../benchmarks/results/x.md`). A link to something that is a page leads to that
  page, one to any other file becomes its name.
- The recipe's keys, the command line and the notebook become pages.
- `Example:` in a docstring is read as griffe's `Examples:`, so that its `>>>` lines are shown as code.
- A public name that no page of the reference shows, or that has no docstring, is a warning, which `--strict` makes an
  error.
"""

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import griffe
import typer
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click
from typer.testing import CliRunner

import conan_embed
from conan_embed import objectives
from conan_embed.cli import app

ROOT = Path(__file__).parent.parent
OUTSIDE = (
    "benchmarks/results/*.md",
    "experiments/README.md",
    "experiments/results/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
)
NOTEBOOK = ROOT / "examples" / "your_own_data.ipynb"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)]*)?\)")

log = logging.getLogger("mkdocs.plugins.site")


class Examples(griffe.Extension):
    """Let one example be called "Example:"."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages that do not stand in docs/."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = str(path.relative_to(ROOT))
            files.append(File.generated(config, name, content=path.read_text(encoding="utf-8")))
    made = {
        "reference/recipe.md": _recipe_keys(),
        "reference/command-line.md": _command_line(),
        "notebook.md": _notebook(NOTEBOOK),
    }
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    _check_reference(files)
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Turn links of the repository into links of the site."""
    source = Path(page.file.src_uri)
    in_repository = ROOT / ("" if _stands_outside(source) else "docs") / source

    def replace(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups()
        path = Path(os.path.normpath(in_repository.parent / target))
        if not path.is_relative_to(ROOT) or not path.exists():
            return match[0]  # mkdocs says that it is broken
        if path.is_dir():
            path /= "README.md"
        uri = str(path.relative_to(ROOT)).removeprefix("docs/")
        if files.get_file_from_path(uri) is None:
            return text
        return f"{image}[{text}]({os.path.relpath(uri, source.parent)}{anchor or ''})"

    return _LINK.sub(replace, markdown)


def _stands_outside(source: Path) -> bool:
    return any(source.match(pattern) for pattern in OUTSIDE)


def _check_reference(files: Files) -> None:
    shown = {name for file in files if file.src_uri.startswith("reference/") for name in _directives(file)}
    public = {f"conan_embed.{name}": getattr(conan_embed, name) for name in conan_embed.__all__}
    public |= {f"conan_embed.objectives.{name}": getattr(objectives, name) for name in objectives.__all__}
    public = {name: thing for name, thing in public.items() if callable(thing)}
    for name, thing in public.items():
        if name not in shown:
            log.warning(f"{name} is public, and no page of docs/reference/ shows it (expected '::: {name}').")
        if not (thing.__doc__ or "").strip():
            log.warning(f"{name} is public and has no docstring.")


def _directives(file: File) -> list[str]:
    return re.findall(r"^::: ([\w.]+)$", file.content_string, re.MULTILINE)


def _output_of(*arguments: str) -> str:
    """What the command line prints."""
    return CliRunner().invoke(app, arguments, catch_exceptions=False).output


def _recipe_keys() -> str:
    keys = _output_of("recipe", "--keys")
    return f"---\nhide: [toc]\n---\n\n# Recipe keys\n\n```yaml\n{keys}```\n"


def _command_line() -> str:
    """The command line's own help as Markdown."""
    command = typer.main.get_command(app)
    text: str = get_docs_for_click(obj=command, ctx=typer.Context(command), name="conan-embed")
    # typer cuts the descriptions in its list off.
    every = "".join(
        f"* [`{name}`](#conan-embed-{name}): {_first_line(each)}\n" for name, each in command.commands.items()
    )
    text = re.sub(r"(?<=\*\*Commands\*\*:\n\n)(\* .*\n)+", lambda _: every, text, count=1)
    return text.replace("# `conan-embed`", "# Command line", 1)


def _first_line(command: Any) -> str:
    return str(command.help).strip().partition("\n")[0]


def _notebook(path: Path) -> str:
    """A notebook as Markdown, without output."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(_cell("".join(cell["source"]), cell["cell_type"]) for cell in cells) + "\n"


def _cell(source: str, kind: str) -> str:
    return f"```python\n{source}\n```" if kind == "code" else source
