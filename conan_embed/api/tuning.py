"""Tune a model on documents, with the proof."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conan_embed.tuning.result import TuneResult


def tune(
    sources: str | Path | Sequence[str | Path],
    *,
    model: str | Path,
    output: str | Path = "runs/tune",
    minutes: float | None = None,
    other: str | Path | None = None,
    hold_out: float = 0.1,
    seed: int = 0,
    overrides: Sequence[str] = (),
    questions_from: str | None = None,
    llm: str | None = None,
    llm_tokens: int = 5_000_000,
    workers: int = 1,
    resume: bool = True,
) -> "TuneResult":
    """Tune a model on documents or pairs, and compare it with its base on questions that were held out.

    Makes passages and pairs from the documents, holds questions out, cleans the pairs, mines hard negatives, trains,
    and merges the result with its base where that keeps more of what the base knew. As `conan-embed tune`.

    Args:
        sources: folders and files (Markdown, HTML, reST, text, PDF, Word, tables of texts or of pairs), or
            `python:NAME` for the docstrings of an installed package.
        model: folder or hub name of the base.
        output: the run's folder. What is there of the same documents and settings is continued.
        minutes: for everything after the pairs; None for as long as the data is worth.
        other: a folder of evaluation sets of other domains, to see what is forgotten; None for a built-in one.
        hold_out: share of the questions that are never trained on.
        overrides: settings of the recipe, `"optimizer.learning_rate=1e-5"`.
        questions_from, llm: address of an OpenAI-compatible endpoint ("http://localhost:8000/v1") and the name of a
            language model there, which writes questions about the passages, too.
        llm_tokens: that the endpoint may use, requests and answers together.
        workers: processes that read documents and clean pairs. With more than one, a script needs
            `if __name__ == "__main__":` around the call, as for every use of `multiprocessing`.
        resume: False starts anew.

    Returns:
        the result: `print(result)` shows the verdict, `result.model` encodes, `result.search` searches the documents.

    Raises:
        UserError: nothing to train on, too few questions to judge by, too little time, or a mistake in the settings.

    Example:
        >>> result = ce.tune("docs/", model="intfloat/multilingual-e5-small", output="runs/docs")  # doctest: +SKIP
        >>> result.verdict.word  # doctest: +SKIP
        'BETTER'
        >>> result.search("how do I rotate the logs?", k=3)["text"].to_list()  # doctest: +SKIP
        ['Logs are rotated by ...', ...]
    """
    from conan_embed.documents.generated import QuestionSettings
    from conan_embed.tuning.tune import TuneSettings
    from conan_embed.tuning.tune import tune as run

    settings = TuneSettings(
        model=str(model),
        minutes=minutes,
        other=None if other is None else Path(other),
        hold_out=hold_out,
        seed=seed,
        overrides=tuple(overrides),
        questions=QuestionSettings.of(questions_from, llm, llm_tokens),
        workers=workers,
    )
    return run(
        [sources] if isinstance(sources, str | Path) else list(sources), output, settings, resume=resume
    )
