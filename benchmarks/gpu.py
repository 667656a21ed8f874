"""Everything about a GPU in one go; `benchmarks/gpu.sh` calls this.

    benchmarks/gpu.sh [--device cuda|cpu] [--small] [--minutes 9] [--folder FOLDER] [--write]

Every part (gpu_parts.py) runs in a process of its own under a time limit, so that one that fails or hangs loses only
itself; what it had printed by then counts. Correctness comes first. Parts for which no time is left are named as
skipped. The short table stands last, and all results as JSON lines in FOLDER/results.jsonl.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import write_result

# Part, its argument, and the most seconds it may take; in the order of what is missed most.
PARTS = [
    ("ceilings", "", 40),
    ("correct", "", 90),
    ("world", "", 60),
    ("train", "bert-large", 150),
    ("peers", "bert-large", 70),
    ("search", "", 45),
    ("loss", "", 40),
    ("train", "bert-base", 80),
    ("resume", "", 60),
    ("encode", "bert-base", 35),
    ("train", "minilm", 70),
    ("profile", "bert-large", 40),
    ("peers", "bert-base", 50),
    ("peers", "minilm", 40),
]


def run_part(arguments: argparse.Namespace, part: str, argument: str, limit: float) -> list[dict[str, Any]]:
    """Run one part; return its results, the last of which may say how it failed."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu_parts",
        part,
        *([argument] if argument else []),
    ]
    command += ["--device", arguments.device, "--folder", str(arguments.folder)]
    command += ["--small"] if arguments.small else []
    failure = ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        output, errors = done.stdout, done.stderr
        if done.returncode:
            failure = (errors.strip().splitlines() or ["no word"])[-1][:160]
    except subprocess.TimeoutExpired as expired:
        output, errors = _text(expired.stdout), _text(expired.stderr)
        failure = f"stopped after {limit:.0f} s"
    (arguments.folder / f"{part}-{argument}.log").write_text(errors, encoding="utf-8")
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    if failure:
        found.append({"name": f"{part} {argument}".strip(), "failed": failure})
    return found


def _text(output: str | bytes | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


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
    if "tokens_per_second" in result:
        return f"{result['tokens_per_second']:,.0f} tokens/s"
    if "milliseconds" in result:
        return f"{result['milliseconds']:.2f} ms"
    return "" if result.get("value") is None else f"{result['value']:,.4g}"


_SHOWN = (
    "loss",
    "gradient",
    "difference",
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
    return ", ".join(facts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--small", action="store_true", help="tiny models and data: a test of the scripts themselves"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything together")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-gpu"))
    parser.add_argument("--only", nargs="*", help="names of parts; else all")
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * arguments.minutes - 10
    parts = [(p, "tiny" if a and arguments.small else a, s) for p, a, s in PARTS]
    parts = [p for p in dict.fromkeys(parts) if not arguments.only or p[0] in arguments.only]
    if arguments.small:  # one size: a part once
        parts = list({(part, argument): (part, argument, limit) for part, argument, limit in parts}.values())
    results: list[dict[str, Any]] = []
    with (arguments.folder / "results.jsonl").open("w", encoding="utf-8") as file:
        for part, argument, limit in parts:
            left = end - time.monotonic()
            started = time.monotonic()
            if left < 15:
                found = [{"name": f"{part} {argument}".strip(), "skipped": "no time left"}]
            else:
                found = run_part(
                    arguments, part, argument, min(left, limit * (4 if arguments.device == "cpu" else 1))
                )
            for result in found:
                file.write(json.dumps(result) + "\n")
                file.flush()
            results += found
            print(f"{part} {argument}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    what = (
        "BERT shapes with random weights, dropout 0; rows of a query (median 14 words), a positive and 7 negatives (median "
        "100, log-normal, at most 510). TFLOP/s count real tokens only, nothing padded or computed twice."
    )
    write_result("gpu", what, table(results), arguments.write)


if __name__ == "__main__":
    main()
