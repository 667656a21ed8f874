"""Do other programs embed with our folders as we do? Writes the table of docs/clients.md.

    make test-clients                                  # environments of their own, under .clients
    python -m benchmarks.clients docs/clients.md

Two models: `plain` (mean pooling, trained for 64 tokens) and `dense` (a dense layer of 256, widths, prompts, trained for
48 tokens), both with MiniLM's weights and exported with both graphs. Nine queries and twelve passages, three of them
longer than the trained length. The figure is the lowest cosine between a text's vector by the client and by conan-embed
in float32, prompts included.
"""

import argparse
import datetime
import re
import tempfile
from pathlib import Path

import numpy as np

from tests.clients.clients import ALL, NUM_LONGER, Client, cosines, expected, make_models, run

BEGIN, END = "<!-- benchmarks/clients.py -->", "<!-- end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("page", type=Path, help="Markdown page whose table is replaced")
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="of the table")
    arguments = parser.parse_args()
    table = measure()
    text = arguments.page.read_text(encoding="utf-8")
    new = f"{BEGIN}\n\n{table}\n\nMeasured on {arguments.date}.\n\n{END}"
    arguments.page.write_text(
        re.sub(f"{BEGIN}.*{END}", lambda _: new, text, flags=re.DOTALL), encoding="utf-8"
    )


def measure() -> str:
    lines = ["| client | versions | weights | plain | dense |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        models = make_models(Path(folder))
        ours = {name: expected(model) for name, model in models.items()}
        for client in ALL:
            if client.command is None:
                lines.append(f"| {client.name} | not installed | | | |")
                continue
            for file in client.files:
                results = {name: run(client, model, file, Path(folder)) for name, model in models.items()}
                shown = [figure(client, cosines(results[name], ours[name])) for name in ("plain", "dense")]
                lines.append(row(client, file, results["plain"]["versions"], shown))
                print(lines[-1], flush=True)
    return "\n".join(lines)


def figure(client: Client, cosine_N: np.ndarray) -> str:
    if client.loses_end:
        return f"{cosine_N[:-NUM_LONGER].min():.4f}, cut texts {cosine_N[-NUM_LONGER:].min():.4f}"
    return f"{cosine_N.min():.4f}"


def row(client: Client, file: str, versions: dict[str, str], figures: list[str]) -> str:
    installed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"| {client.name} | {installed} | `{file}` | {' | '.join(figures)} |"


if __name__ == "__main__":
    main()
