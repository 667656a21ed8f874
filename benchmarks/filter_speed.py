"""The filter's speed by stage, beside datatrove's comparable steps on the same pairs in the same process.

    python -m benchmarks.filter_speed DATA [--rows 20000] [--output results.md]
    python -m benchmarks.filter_speed DATA --evaluation EVALUATION      (a whole run on all of DATA, by stage)

DATA is a folder, file or glob of Parquet with the columns query, positive, category. Times are of processor time on
one thread, so that other users of the machine change them little; ratios of one run may be compared, seconds of two
runs may not. datatrove is no dependency: `pip install "datatrove[processing]" jieba spacy`; without it only our half is
measured. Its steps know one text, not a pair, so they see the positive. What is compared:

    rules            with measures and languages    GopherRepetitionFilter, GopherQualityFilter, FineWebQualityFilter
    near-duplicates  5-grams of characters,         MinhashDedup, 5-grams of words, 14 x 8
                     12 x 5, both sides, compared

Daft's part is measured apart: the same step over the same shards by Daft, by a plain loop and by a process pool.
"""

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS"):
    os.environ[name] = "1"

import polars as pl  # noqa: E402

from conan_embed.files import read_json  # noqa: E402
from conan_embed.filtering.duplicates import find_duplicates  # noqa: E402
from conan_embed.filtering.language import Languages  # noqa: E402
from conan_embed.filtering.measures import Measures  # noqa: E402
from conan_embed.filtering.minhash import fingerprints  # noqa: E402
from conan_embed.filtering.normalise import Normaliser  # noqa: E402
from conan_embed.filtering.pipeline import filter_pairs  # noqa: E402
from conan_embed.filtering.prompt_response import PROMPT_RESPONSE_RULES, PromptResponseRules  # noqa: E402
from conan_embed.filtering.readers import plan_shards, read_shard  # noqa: E402
from conan_embed.filtering.recipe import Decontaminate, Engine, FilterRecipe, Source  # noqa: E402
from conan_embed.filtering.rules import RULES, Rules  # noqa: E402
from conan_embed.filtering.safety import Safe, read_block_lists  # noqa: E402


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return what `run` returns and the processor time that it took, with that of finished child processes."""
    start = os.times()
    result = run()
    end = os.times()
    return result, sum(end[:4]) - sum(start[:4])


def sample(data: str, rows: int) -> pl.DataFrame:
    """Return `rows` pairs, taken evenly from all over the data."""
    sources = (Source(path=data),)
    pairs = pl.concat([read_shard(shard, sources[0]).pairs for shard in plan_shards(sources, 50_000)])
    return (
        pairs.sample(min(rows, pairs.height), seed=0)
        .sort("id")
        .with_columns(id=pl.int_range(pl.len(), dtype=pl.UInt64))
    )


def ours(pairs: pl.DataFrame, recipe: FilterRecipe) -> tuple[dict[str, float], set[int], set[int]]:
    """Return seconds by stage, ids that rules drop, ids that near-duplicates drop."""
    seconds: dict[str, float] = {}
    stages = [
        Normaliser(recipe.normalise),
        Measures(),
        Languages(recipe.language),
        Rules(RULES),
        PromptResponseRules(PROMPT_RESPONSE_RULES),
        Safe(read_block_lists(recipe.safety), recipe.safety),
    ]
    few = pairs.head(200)
    for stage in stages[:3]:  # what is loaded once a process is not counted on either side
        few = stage(few).kept
    gone: set[int] = set()
    left = clean = pairs
    for stage in stages:
        outcome, seconds[stage.name] = timed(lambda: stage(left))  # noqa: B023
        left = outcome.kept
        if stage.name in ("rules", "prompt_response"):
            gone |= set(outcome.dropped["id"])
        elif stage.name == "normalise":
            clean = left
    folder = Path(tempfile.mkdtemp())

    def duplicates() -> set[int]:
        keys, texts = fingerprints(clean, recipe.duplicates)
        shard = folder / "00000"
        shard.mkdir()
        clean.write_parquet(shard / "pairs.parquet")
        keys.write_parquet(shard / "keys.parquet")
        texts.write_parquet(shard / "texts.parquet")
        limits = recipe.duplicates.model_copy(update={"max_per_query": None, "max_per_positive": None})
        find_duplicates([shard], folder / "out", limits, memory="1GB", work=folder / "work")
        return set(pl.read_parquet(folder / "out" / "*.parquet")["id"])

    twins, seconds["near-duplicates"] = timed(duplicates)
    shutil.rmtree(folder)
    return seconds, gone, twins


def theirs(pairs: pl.DataFrame) -> tuple[dict[str, float], set[int], set[int]]:
    """The same for datatrove, over the positives; Chinese and English texts each in their language."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupFilter
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    chinese = pairs["positive"].str.contains(r"\p{Han}")
    seconds: dict[str, float] = {}
    gone: set[int] = set()
    documents = {
        code: [
            Document(text=text, id=str(i))
            for i, text in pairs.filter(rows).select("id", "positive").iter_rows()
        ]
        for code, rows in (("cmn_Hani", chinese), ("eng", ~chinese))
    }
    for code, texts in documents.items():
        load_word_tokenizer(code).word_tokenize("热身 warm up")
        # Bounds on words and stop words are of English prose; the rest is at its defaults.
        quality = GopherQualityFilter(
            min_doc_words=3, min_stop_words=0, min_avg_word_length=1, max_avg_word_length=None, language=code
        )
        filters = {
            "GopherRepetitionFilter": GopherRepetitionFilter(language=code),
            "GopherQualityFilter": quality,
            "FineWebQualityFilter": FineWebQualityFilter(language=code, stop_chars=tuple('。！？.!?”"…；;')),
        }
        for name, block in filters.items():

            def verdicts(block: Any = block, texts: Any = texts) -> set[int]:
                return {int(document.id) for document in texts if block.filter(document) is not True}

            dropped, spent = timed(verdicts)
            seconds[name] = seconds.get(name, 0.0) + spent
            gone |= dropped
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    folder = Path(tempfile.mkdtemp())

    def duplicates() -> set[int]:
        every = [document for texts in documents.values() for document in texts]
        signature = MinhashDedupSignature(str(folder / "signatures"), config=config, language="cmn_Hani")
        signature.run(iter(every), 0, 1)
        for bucket in range(config.num_buckets):
            block = MinhashDedupBuckets(str(folder / "signatures"), str(folder / "buckets"), config=config)
            block.run(None, bucket, config.num_buckets)
        MinhashDedupCluster(str(folder / "buckets"), str(folder / "remove"), config=config).run(None, 0, 1)
        kept = MinhashDedupFilter(str(folder / "remove")).run(iter(every), 0, 1)
        return {int(document.id) for document in every} - {int(document.id) for document in kept}

    twins, seconds["MinhashDedup"] = timed(duplicates)
    shutil.rmtree(folder)
    return seconds, gone, twins


def table(seconds: dict[str, float], rows: int) -> list[str]:
    lines = ["| step | seconds | pairs per second and core |", "|---|---|---|"]
    lines += [f"| {name} | {taken:.2f} | {rows / max(taken, 1e-9):,.0f} |" for name, taken in seconds.items()]
    total = sum(seconds.values())
    return [*lines, f"| all | {total:.2f} | {rows / total:,.0f} |", ""]


def overlap_line(name: str, mine: set[int], other: set[int], rows: int) -> str:
    both = len(mine & other)
    return (
        f"{name}: ours drops {len(mine):,}, datatrove {len(other):,} of {rows:,}; both {both:,}, "
        f"only ours {len(mine - other):,}, only datatrove {len(other - mine):,}."
    )


def engines(pairs: pl.DataFrame, recipe: FilterRecipe, shards: int) -> list[str]:
    """Run the read step over the same shards by a plain loop, by Daft and by a pool of processes: wall clock."""
    import functools
    from concurrent.futures import ProcessPoolExecutor

    from conan_embed.filtering.engine import run_step
    from conan_embed.filtering.steps import Run, read_step

    folder = Path(tempfile.mkdtemp())
    source = folder / "pairs.parquet"
    pairs.select("query", "positive", "category").write_parquet(source)
    sources = (Source(path=str(source)),)
    size = -(-pairs.height // shards)
    lines = ["| engine | wall seconds | processor seconds |", "|---|---|---|"]

    def pool(step: Any, numbers: Any) -> list[Any]:
        # A fork would inherit locks of polars' threads.
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
            return list(executor.map(step, numbers))

    ways: dict[str, Callable[[Any, Any], Any]] = {
        "plain loop": lambda step, numbers: [step(number) for number in numbers],
        "Daft, 1 worker": lambda step, numbers: list(run_step(step, numbers, runner="native", workers=1)),
        "Daft, 2 workers": lambda step, numbers: list(run_step(step, numbers, runner="native", workers=2)),
        "process pool, 2 workers": pool,
    }
    for way, run_all in ways.items():
        one = Run(
            recipe.model_copy(update={"sources": sources}),
            tuple(plan_shards(sources, size)),
            folder / way[:8],
        )
        shutil.rmtree(one.output, ignore_errors=True)
        numbers = [shard.number for shard in one.shards]
        start = time.perf_counter()
        _, spent = timed(lambda: run_all(functools.partial(read_step, one), numbers))  # noqa: B023
        lines.append(f"| {way} | {time.perf_counter() - start:.1f} | {spent:.1f} |")
    shutil.rmtree(folder)
    return [*lines, ""]


def whole_run(data: str, evaluation: str) -> list[str]:
    """Filter all of the data with the default recipe, in one worker: processor seconds by stage.

    A worker imports the package from the working folder: to measure another version, run this in its root.
    """
    recipe = FilterRecipe(
        sources=(Source(path=data),),
        decontaminate=Decontaminate(paths=(evaluation,)),
        engine=Engine(workers=1, keep_work=True),
    )
    folder = Path(tempfile.mkdtemp())
    summary, whole = timed(lambda: filter_pairs(recipe, folder / "out"))
    seconds = {name: stage.seconds for name, stage in summary.speed.stages.items()}
    join = read_json(folder / "out" / "work" / "join" / "result.json")["seconds"]
    seconds["duplicates"] -= join
    seconds["the join of duplicates"] = join
    shutil.rmtree(folder)
    kept = f"{summary.read:,} pairs read, {summary.kept:,} kept; with files and the index of evaluation texts {whole:.1f} s."
    return [*table(seconds, summary.read), kept, ""]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument(
        "--shards", type=int, default=10, help="for the comparison of engines; 0 leaves it out"
    )
    parser.add_argument(
        "--evaluation", help="evaluation texts: time a whole run against them, by stage, alone"
    )
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.evaluation:
        sys.stdout.write("\n".join(whole_run(arguments.data, arguments.evaluation)))
        return
    recipe = FilterRecipe(sources=(Source(path=arguments.data),))
    pairs = sample(arguments.data, arguments.rows)
    load = os.getloadavg()[0]
    lines = [
        f"{pairs.height:,} pairs; load {load:.1f} on {os.cpu_count()} cores at the start.",
        "",
        "Ours",
        "",
    ]
    seconds, gone, twins = ours(pairs, recipe)
    lines += table(seconds, pairs.height)
    try:
        their_seconds, their_gone, their_twins = theirs(Normaliser(recipe.normalise)(pairs).kept)
    except ImportError as error:
        lines += [f"datatrove was not measured: {error}.", ""]
    else:
        lines += ["datatrove", "", *table(their_seconds, pairs.height)]
        names = ("measures", "language", "rules", "prompt_response")
        rules = sum(seconds[name] for name in names)
        their_rules = sum(taken for name, taken in their_seconds.items() if name.endswith("Filter"))
        twin_ratio = their_seconds["MinhashDedup"] / seconds["near-duplicates"]
        lines += [
            f"Rules (with measures and languages): {their_rules / rules:.1f} times as fast as datatrove; "
            f"near-duplicates: {twin_ratio:.1f} times.",
            "",
            overlap_line("Rules", gone, their_gone, pairs.height),
            overlap_line("Near-duplicates", twins, their_twins, pairs.height),
            "",
        ]
    if arguments.shards:
        lines += ["Engines", "", *engines(pairs, recipe, arguments.shards)]
    text = "\n".join(lines)
    sys.stdout.write(text + "\n")
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
