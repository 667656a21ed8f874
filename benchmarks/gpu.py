"""Everything about a GPU in one go; `benchmarks/gpu.sh` calls this.

    benchmarks/gpu.sh [--device cuda|cpu] [--small] [--minutes 9] [--folder FOLDER] [--resume] [--write]

Every part (gpu_parts.py) runs in a process of its own under a time limit, so that one that fails or hangs loses only
itself; what it had printed by then counts, and stays in FOLDER if everything is killed. The most valuable come first:
the limits of the first seven parts fit the nine minutes, the others take what time is left. Parts for which none is
left are named as skipped, and the exit status is 75: the same call with --resume keeps what FOLDER holds of parts that
came to their end, and runs the others. The short table stands last, and all results as JSON lines in
FOLDER/results.jsonl.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import write_result


class Part(NamedTuple):
    """What to run, and the most seconds that it may take."""

    name: str
    argument: str
    limit: int

    def __str__(self) -> str:
        return f"{self.name} {self.argument}".strip()

    @property
    def file(self) -> str:
        return str(self).replace(" ", "-")


PARTS = [  # in the order of what is missed most
    Part("ceilings", "", 20),
    Part("train", "bert-large", 200),
    Part("peers", "bert-large", 70),
    Part("checkpointing", "", 50),
    Part("correct", "", 75),
    Part("resume", "", 80),
    Part("search", "", 30),
    Part("loss", "", 30),
    Part("waits", "minilm", 30),
    Part("world", "", 40),
    Part("encode", "bert-base", 40),
    Part("train", "bert-base", 90),
    Part("peers", "bert-base", 60),
    Part("profile", "bert-large", 40),
    Part("train", "minilm", 70),
    Part("peers", "minilm", 50),
]
BESIDE_CEILING = {"train", "peers", "search", "loss", "encode"}
"""Parts whose operations per second are compared with the measured ceiling."""
CPU_PATIENCE = 20
"""On a CPU the limits are this many times as long: there the script is tested, and nothing is measured."""
NOT_FINISHED = 75


def run_part(arguments: argparse.Namespace, part: Part, limit: float) -> list[dict[str, Any]]:
    """Run one part; return its results, the last of which may say how it failed."""
    command = [sys.executable, "-m", "benchmarks.gpu_parts", part.name]
    command += [part.argument] if part.argument else []
    command += ["--device", arguments.device, "--folder", str(arguments.folder)]
    command += ["--small"] if arguments.small else []
    output, log, done = (arguments.folder / f"{part.file}.{kind}" for kind in ("jsonl", "log", "done"))
    done.unlink(missing_ok=True)
    failure = run_limited(command, output, log, limit)
    results = read_results(output)
    if failure:
        return [*results, {"name": str(part), "failed": failure}]
    done.touch()
    return results


def run_limited(command: list[str], output: Path, log: Path, limit: float) -> str:
    """Run a command that writes to these files; return how it failed, or nothing.

    At the limit, or where this script is stopped, all processes that the command started end with it: one that went on
    would disturb what is timed next.
    """
    with output.open("w", encoding="utf-8") as out, log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors, start_new_session=True)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s"
        finally:
            _kill_session(process)
    if not status:
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:160] if lines else f"exit status {status}"


def _kill_session(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_results(output: Path) -> list[dict[str, Any]]:
    """Return the lines that a part has written whole."""
    lines = output.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def table(results: list[dict[str, Any]]) -> list[str]:
    """Return the short table: one line a result, TFLOP/s beside the measured ceiling, ours beside theirs."""
    ceiling = next((r["value"] for r in results if r.get("key") == "ceiling"), None)
    padded = {(r["size"], r["queries"]): r["tokens_per_second"] for r in results if r.get("who") == "sdpa"}
    lines = [
        "| what | result | TFLOP/s | of the product's | peak GB | beside it |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        tflops = result.get("tflops")
        share = f"{tflops / ceiling:.0%}" if tflops and ceiling else ""
        peak = result.get("peak_gb")
        lines.append(
            f"| {result['name']} | {_main(result)} | {'' if tflops is None else format(tflops, '.3g')} | {share} "
            f"| {'' if peak is None else format(peak, '.1f')} | {_beside(result, padded)} |"
        )
    return lines


def _main(result: dict[str, Any]) -> str:
    if "failed" in result or "skipped" in result:
        return f"failed: {result['failed']}" if "failed" in result else f"skipped: {result['skipped']}"
    if "ok" in result:
        return "right" if result["ok"] else "WRONG"
    if "same_bits" in result:
        return "the same bits" if result["same_bits"] else "DIFFERS"
    if "tokens_per_second" in result:
        return f"{result['tokens_per_second']:,.0f} tokens/s"
    if "milliseconds" in result:
        return f"{result['milliseconds']:.2f} ms"
    return "" if result.get("value") is None else f"{result['value']:,.4g}"


_SHOWN = (
    "loss",
    "gradient",
    "gradient_of_other_masks",
    "difference",
    "first_difference",
    "differs",
    "killed_after",
    "replaced",
    "activation_checkpointing",
    "graphs",
    "scores_gb",
    "recall",
    "step_ms",
)


def _beside(result: dict[str, Any], padded: dict[tuple[str, int], float]) -> str:
    facts = [
        f"{name} {format(result[name], '.3g') if isinstance(result[name], float) else result[name]}"
        for name in _SHOWN
        if result.get(name) is not None
    ]
    if result.get("who") == "ours" and (other := padded.get((result["size"], result["queries"]))):
        facts.append(f"{result['tokens_per_second'] / other:.1f}x padded sentence-transformers")
    return ", ".join([*facts, *([result["note"]] if "note" in result else [])])


def choose(only: list[str] | None, small: bool) -> list[Part]:
    """Return the parts to run, the ceilings first where others are compared with them; small ones have one size."""
    names = {f"{part.name}:{part.argument}".rstrip(":"): part for part in PARTS}
    known = {*names, *(part.name for part in PARTS)}
    if unknown := [name for name in only or () if name not in known]:
        raise SystemExit(f"--only {unknown[0]}: no such part; expected some of {', '.join(names)}.")
    chosen = [part for wanted in only or names for name, part in names.items() if wanted in (name, part.name)]
    if any(part.name in BESIDE_CEILING for part in chosen):
        chosen = [PARTS[0], *chosen]
    if small:
        chosen = [part._replace(argument="tiny" if part.argument else "") for part in chosen]
    return list({part.file: part for part in chosen}.values())


def run_parts(arguments: argparse.Namespace, end: float) -> list[dict[str, Any]]:
    """Run the chosen parts until `end` (as `time.monotonic()`); return all results, which are in FOLDER as well."""
    results: list[dict[str, Any]] = []
    patience = CPU_PATIENCE if arguments.device == "cpu" else 1
    with (arguments.folder / "results.jsonl").open("w", encoding="utf-8") as file:
        for part in choose(arguments.only, arguments.small):
            started = time.monotonic()
            left = end - started
            if arguments.resume and (arguments.folder / f"{part.file}.done").exists():
                found = read_results(arguments.folder / f"{part.file}.jsonl")
            elif left < max(10, part.limit / 3):
                found = [{"name": str(part), "skipped": "no time left", "again": True}]
            else:
                limit = patience * part.limit
                found = run_part(arguments, part, min(left, limit))
                if found and "failed" in found[-1]:
                    found[-1]["again"] = left < limit and "stopped" in found[-1]["failed"]
            file.writelines(json.dumps(result) + "\n" for result in found)
            file.flush()
            results += found
            print(f"{part}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--small", action="store_true", help="tiny models and data: a test of the scripts themselves"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything together")
    parser.add_argument("--seconds", type=float, help="the same, finer")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-gpu"))
    parser.add_argument(
        "--only", nargs="*", help="parts in this order, as `loss` or `train:minilm`; else all"
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep what FOLDER holds of parts that came to their end"
    )
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(NOT_FINISHED))  # and the part in work ends, too
    results = run_parts(arguments, time.monotonic() + (arguments.seconds or 60 * arguments.minutes - 10))
    what = (
        "BERT shapes with random weights, dropout 0; rows of a query (median 14 words), a positive and 7 negatives (median "
        "100, log-normal, at most 510). TFLOP/s count real tokens only, nothing padded or computed twice."
    )
    write_result("gpu", what, table(results), arguments.write)
    if any(result.get("again") for result in results):
        sys.exit(NOT_FINISHED)


if __name__ == "__main__":
    main()
