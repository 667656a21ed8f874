"""Do other programs embed with our folders as we do? Writes the table of docs/clients.md.

    make test-clients                                  # in environments of their own, under .clients
    python -m benchmarks.clients docs/clients.md

Two models: `plain` (mean pooling, trained for 64 tokens) and `dense` (a dense layer of 256, widths, prompts, trained for
48 tokens), both with MiniLM's weights and exported with both graphs. Nine queries and twelve passages, three of them
longer than the trained length. The figure is the lowest cosine between a text's vector by the client and by conan-embed
in float32, prompts included.
"""

import argparse
import datetime
import re
from pathlib import Path

import numpy as np

from conan_embed.files import read_json_lines
from tests.clients.clients import ALL, MEASURED, NUM_LONGER, Client

BEGIN, END = "<!-- benchmarks/clients.py -->", "<!-- end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("page", type=Path, help="Markdown page whose table is replaced")
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="of the table")
    arguments = parser.parse_args()
    text = arguments.page.read_text(encoding="utf-8")
    new = f"{BEGIN}\n\n{table()}\n\nMeasured on {arguments.date}.\n\n{END}"
    arguments.page.write_text(
        re.sub(f"{BEGIN}.*{END}", lambda _: new, text, flags=re.DOTALL), encoding="utf-8"
    )


def table() -> str:
    # Of a case that was measured twice the last line counts.
    measured = {(line["client"], line["model"], line["file"]): line for line in read_json_lines(MEASURED)}
    lines = ["| client | versions | weights | plain | dense |", "|---|---|---|---|---|"]
    for client in ALL:
        for file in client.files:
            tried = [measured.get((client.name, model, file)) for model in client.models]
            if None in tried:
                lines.append(f"| {client.name} | not installed | `{file}` | | |")
                continue
            figures = [figure(client, np.array(line["cosines"])) for line in tried]
            figures += [] if client.dense else ["–"]  # it can have no dense layer
            versions = ", ".join(f"{name} {version}" for name, version in tried[0]["versions"].items())
            lines.append(f"| {client.name} | {versions} | `{file}` | {' | '.join(figures)} |")
    return "\n".join(lines)


def figure(client: Client, cosine_N: np.ndarray) -> str:
    if client.loses_end:
        return f"{cosine_N[:-NUM_LONGER].min():.4f}, cut texts {cosine_N[-NUM_LONGER:].min():.4f}"
    return f"{cosine_N.min():.4f}"


if __name__ == "__main__":
    main()
