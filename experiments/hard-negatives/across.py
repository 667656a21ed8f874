"""Arms of run.py compared two by two, across scopes too: what the result files call "looked at afterwards".

    python experiments/hard-negatives/across.py --output runs/hard-negatives --seeds 0 1 2 \
        "own/in-batch only > data set/static, bound" "own/static, bound > data set/static, bound"

Each comparison says how much the second arm is better than the first. It reads what run.py stored and trains nothing.
"""

import argparse
import sys
from pathlib import Path

from data import OTHER_DOMAINS
from run import SCOPES, folder

sys.path.insert(0, str(Path(__file__).parents[1]))
from result_file import by_domain

from conan_embed.ablation.arms import Arm
from conan_embed.ablation.comparison import compare
from conan_embed.ablation.job import ArmResult
from conan_embed.ablation.tables import marked
from conan_embed.errors import UserError
from conan_embed.files import read_json

ROWS = ("average", "other domains", "in domain")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comparisons", nargs="+", metavar="'SCOPE/ARM > SCOPE/ARM'")
    parser.add_argument("--output", type=Path, default=Path("runs/hard-negatives"), help="that of run.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    lines = ["| difference | " + " | ".join(ROWS) + " |", "| --- | --- | --- | --- |"]
    for comparison in arguments.comparisons:
        first, second = (stored(arguments.output, name, arguments.seeds) for name in sides(comparison))
        rows = compare(
            [Arm("first"), Arm("second")], arguments.seeds, by_domain([first, second], OTHER_DOMAINS), 0
        ).rows
        lines.append(f"| {comparison} | " + " | ".join(marked(rows[row][1]) for row in ROWS) + " |")
    print("\n".join(lines))


def sides(comparison: str) -> list[str]:
    """Return both names of a comparison."""
    names = [name.strip() for name in comparison.split(">")]
    if len(names) != 2 or any(name.partition("/")[0] not in SCOPES for name in names):
        expected = f"'SCOPE/ARM > SCOPE/ARM' with a scope of {', '.join(SCOPES)}"
        raise UserError(f"comparison: found {comparison!r}, expected {expected}.")
    return names


def stored(output: Path, name: str, seeds: list[int]) -> list[ArmResult]:
    """Return the results of an arm, one a seed."""
    scope, _, arm = name.partition("/")
    files = [output / folder(scope) / Arm(arm).folder / f"seed-{seed}.json" for seed in seeds]
    for file in files:
        if not file.exists():
            raise UserError(
                f"{file}: not found; train it first with run.py --scope {scope!r} --arms {arm!r}."
            )
    return [ArmResult.from_json(read_json(file)) for file in files]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
