"""Keep the tables of `conan-embed ablate` and `sweep` as dated results: results/NAME_DATE.md and .json.

    python experiments/keep.py runs/ablation runs/sensitivity ...

NAME is that of the folder. The command, the model and the machine are read from the last arm's run.
"""

import argparse
import datetime
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from result_file import RESULTS

from conan_embed.ablation.comparison import Comparison
from conan_embed.ablation.tables import markdown
from conan_embed.errors import UserError
from conan_embed.files import read_json, write_text

OF_THIS_MACHINE = ("cache=", "--output=", "--jobs=")


def command_of(run: dict[str, Any]) -> str:
    """Return the command of a run without what says nothing to others: where files lie, how many arms at a time."""
    words = iter(shlex.split(run["command"]))
    shown = []
    for word in words:
        if word in ("-o", "--output", "--jobs"):
            next(words)
        elif not word.startswith(OF_THIS_MACHINE):
            key, equals, value = word.rpartition("=")
            shown.append(f"{key}{equals}{Path(value).name}" if value.startswith("/") else word)
    return shlex.join(shown)


def base_of(run: dict[str, Any]) -> str:
    """Return the name of the base model; a folder called `model`, as runs write it, goes by its parent's name."""
    path = Path(run["base"])
    return f"{path.parent.name}/{path.name}" if path.name == "model" else path.name


def without_local_settings(comparison: Comparison) -> Comparison:
    """Return the comparison without the settings of its arms that say nothing to others."""

    def shared(settings: list[str]) -> list[str]:
        return [each for each in settings if not each.startswith(OF_THIS_MACHINE)]

    arms = [
        replace(arm, overrides=shared(arm.overrides), changes=", ".join(shared(arm.changes.split(", "))))
        for arm in comparison.arms
    ]
    return replace(comparison, arms=arms)


def keep(folder: Path, today: str) -> Path:
    """Write the result files of one comparison; return the path of the Markdown one."""
    if not (folder / "results.json").exists():
        raise UserError(
            f"{folder}: found no results.json; expected the output of a finished ablate or sweep."
        )
    comparison = without_local_settings(Comparison.from_json(read_json(folder / "results.json")))
    runs = sorted(folder.glob("*/seed-*/run.json"), key=lambda path: path.stat().st_mtime)
    run = read_json(runs[-1])
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    settings = (
        f"From {base_of(run)} ({run['parameters']:,} parameters); arms on {run['device']}, "
        f"{run['processes']} process(es) of {run['threads']} thread(s) each; {versions}."
    )
    table = markdown(replace(comparison, title=f"{comparison.title}, {today}"))
    title, _, rest = table.partition("\n")
    path = RESULTS / f"{folder.name}_{today}.md"
    write_text(path, "\n".join([title, "", f"`{command_of(run)}`", "", settings, rest]))
    write_text(path.with_suffix(".json"), json.dumps(comparison.to_json(), indent=1))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="OUTPUT")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    for folder in parser.parse_args().folders:
        print(keep(folder, today))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
