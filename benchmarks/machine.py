"""What every benchmark says about the machine, and where its result goes."""

import datetime
import platform
import sys
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def describe() -> str:
    """Return processor, threads and versions in one line."""
    name = platform.processor() or platform.machine()
    with Path("/proc/cpuinfo").open() as file:
        for line in file:
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    if torch.cuda.is_available():
        name += f", {torch.cuda.get_device_name()}"
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"


def write_result(name: str, what: str, lines: list[str], write: bool) -> None:
    """Print a result and, if asked, keep it as benchmarks/results/NAME_DATE.md with the command that made it."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    # Where a file lies on this machine says nothing to others: of an absolute path only the name is shown.
    arguments = [Path(argument).name if argument.startswith("/") else argument for argument in sys.argv[1:]]
    command = " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *arguments])
    text = "\n".join(
        [f"# {name}, {today}", "", f"`{command}`", "", f"{describe()}", "", what, "", *lines, ""]
    )
    print(text)
    if write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}_{today}.md").write_text(text, encoding="utf-8")
