"""The recipe of a filter run: what is read, which stages run, and every threshold, as typed objects.

`FilterRecipe` is the whole of it; `recipes/filter-default.yaml` spells out its defaults. Rules are set by name:
`query_links: false` switches one off, `query_links: {maximum: 0.5}` moves its bound for all languages,
`query_links: {zh: {maximum: 0.5}}` for one, `query_links: {skip: [weibo]}` leaves a category or a source alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from conan_embed.errors import UserError
from conan_embed.filtering.bounds import RulesByName
from conan_embed.filtering.prompt_response import PROMPT_RESPONSE_RULES
from conan_embed.filtering.rules import RULES, active_rules
from conan_embed.recipes.loading import read_yaml
from conan_embed.recipes.validation import Section, Share, validate

Turns = Literal["first", "each", "context"]


class Source(Section):
    """One collection of raw pairs: files of one format, with a category.

    Attributes:
        path: a file, a folder (with those below it) or a pattern: Parquet, JSON lines, JSON arrays, CSV, TSV (see
            `texts.readers`).
        name: the column `source` of every pair; the stem of each file by default.
        format: `pairs` (two text columns), `alpaca` (instruction, input, output) or `messages` (ShareGPT
            `conversations` with from/value, or `messages` with role/content).
        query, positive: the columns of a `pairs` source; by default those with the usual names.
        category: a word for the funnel; the column `category` by default.
        prompt_response: whether the prompt-response rules apply; by default they do for `alpaca` and `messages`,
            and for the categories `instruction` and `llm_generated`.
        turns: which pairs a conversation gives: its `first` exchange, `each` exchange, or each with up to two earlier
            messages in front of the prompt (`context`).
    """

    path: str
    name: str | None = None
    format: Literal["pairs", "alpaca", "messages"] = "pairs"
    query: str | None = None
    positive: str | None = None
    category: str | None = None
    prompt_response: bool | None = None
    turns: Turns = "first"


class Normalise(Section):
    """How texts are made alike before anything is measured. `enabled: false` leaves them as they are."""

    enabled: bool = True
    form: Literal["NFKC", "NFC"] = "NFKC"
    markup: bool = True
    mojibake: bool = True


class Language(Section):
    """Which languages both sides may have.

    Attributes:
        keep: languages of pairs that stay.
        candidates: the languages among which py3langid chooses for texts in Latin or Cyrillic letters; Chinese,
            Japanese and Korean are recognised by their scripts.
        min_letters: a text with fewer letters counts as `und` (undetermined), which always stays.
        min_probability: a text whose language is less probable counts as `und`, too.
        same: whether both sides must be in the same language.
    """

    enabled: bool = True
    keep: tuple[str, ...] = ("zh", "en")
    candidates: tuple[str, ...] = (
        "en", "de", "fr", "es", "it", "pt", "nl", "pl", "tr", "vi", "id", "ru", "uk", "ar",
    )  # fmt: skip
    min_letters: int = Field(default=24, ge=1)
    min_probability: Share = 0.9
    same: bool = False


class Duplicates(Section):
    """Exact and near-duplicates.

    Two texts are near-duplicates when the Jaccard similarity of their character 5-grams is at least `threshold`; two
    pairs, when both their sides are. MinHash with `bands * rows` values finds the candidates, each of which is then
    compared exactly: with 12 bands of 5 rows a text of similarity 0.8 is missed with probability
    (1 - 0.8^5)^12 = 0.9 %, one of similarity 0.85 with 0.09 %.

    Attributes:
        near: whether near-duplicates count, or only equal ones.
        max_per_query, max_per_positive: how many pairs may share one query (or near-duplicates of it), and one
            positive; null for no limit. A positive under many queries is mostly a phrase that fits anywhere.
    """

    enabled: bool = True
    near: bool = True
    threshold: Share = 0.8
    bands: int = Field(default=12, ge=1, le=64)
    rows: int = Field(default=5, ge=1, le=32)
    max_per_query: int | None = Field(default=30, ge=1)
    max_per_positive: int | None = Field(default=10, ge=1)


class Safety(Section):
    """Block lists.

    Attributes:
        default_words: use the Chinese and English lists of the package glin-profanity.
        min_default_words: how many different words of those lists make a pair unsafe (a single one is mostly
            medicine, law or news).
        words: files of your own, one word or phrase a line; one hit is enough.
        domains: files with one domain a line; a pair that links to it or to a subdomain is dropped.
    """

    enabled: bool = True
    default_words: bool = True
    min_default_words: int = Field(default=2, ge=1)
    words: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()


class Quality(Section):
    """A classifier trained on your own examples; without any, the stage does not run.

    Attributes:
        good, bad: files, folders or patterns with texts of both kinds, at least 50 of each.
        columns: the columns that are read, strings or lists of strings.
        min_probability: pairs go whose positive is less probably good.
    """

    good: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    columns: tuple[str, ...] = ("text", "positive")
    min_probability: Share = 0.5

    @model_validator(mode="after")
    def _both_kinds(self) -> "Quality":
        if bool(self.good) != bool(self.bad):
            raise ValueError("expected examples of both kinds, good and bad")
        return self


class Decontaminate(Section):
    """Evaluation texts that no side of a kept pair may repeat.

    Attributes:
        paths: files, folders (with those below them) or patterns; without any, the stage does not run.
        columns: the columns that are read, strings or lists of strings.
        near: whether near-duplicates (Jaccard similarity of character 5-grams) count.
        min_characters: shorter evaluation texts are ignored ("thanks", "good").
    """

    paths: tuple[str, ...] = ()
    columns: tuple[str, ...] = (
        "query", "positive", "negative", "text", "text_a", "text_b", "title", "sentence1", "sentence2",
    )  # fmt: skip
    near: bool = True
    threshold: Share = 0.8
    min_characters: int = Field(default=6, ge=1)


class Teacher(Section):
    """Scores of an embedding model of your choice; without a model, the stage does not run.

    Attributes:
        min_score: pairs with a lower cosine go (0.4 in the paper, section 2.1).
        max_rank: the positive must be among this many best passages for its query; null for no such check.
        rank_pool: how many positives of the pair's own shard it is ranked among, at most.
        query_prompt, positive_prompt: null for the model's own.
    """

    model: str | None = None
    min_score: float = Field(default=0.4, ge=-1.0, le=1.0)
    max_rank: int | None = Field(default=None, ge=1)
    rank_pool: int = Field(default=20_000, ge=2)
    query_prompt: str | None = None
    positive_prompt: str | None = None


class Engine(Section):
    """How the work is cut.

    Attributes:
        shard_rows: rows of one unit of work: what is in memory at once, and what a killed run loses.
        workers: processes; null for one a core.
        memory: what DuckDB may use to find the duplicates; the rest is spilled to `work/`.
        samples: dropped pairs a rule that `summary.json` shows.
        keep_work: leave the intermediate files in `work/`.
    """

    shard_rows: int = Field(default=50_000, ge=1)
    workers: int | None = Field(default=None, ge=1)
    memory: str = "1.5GB"
    samples: int = Field(default=20, ge=0)
    keep_work: bool = False


class FilterRecipe(Section):
    """Everything that decides which pairs are kept.

    Example:
        >>> recipe = ce.FilterRecipe(sources=[{"path": "faq.jsonl"}], language={"keep": ["en"]})
        >>> recipe.duplicates.threshold
        0.8
    """

    sources: tuple[Source, ...] = Field(min_length=1)
    normalise: Normalise = Normalise()
    language: Language = Language()
    rules: RulesByName = Field(default_factory=dict)
    prompt_response: RulesByName = Field(default_factory=dict)
    duplicates: Duplicates = Duplicates()
    safety: Safety = Safety()
    quality: Quality = Quality()
    decontaminate: Decontaminate = Decontaminate()
    teacher: Teacher = Teacher()
    engine: Engine = Engine()

    @model_validator(mode="after")
    def _known_rules(self) -> "FilterRecipe":
        active_rules(RULES, self.rules, "rules")
        active_rules(PROMPT_RESPONSE_RULES, self.prompt_response, "prompt_response")
        return self


def read_filter_recipe(path: str | Path, overrides: Sequence[str] = ()) -> FilterRecipe:
    """Read a recipe from YAML, with `dotted.key=value` overrides on top.

    Relative paths in it are relative to the working directory.

    Raises:
        UserError: the file is missing or not YAML, or a key or value does not fit.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such recipe.")
    return validate(read_yaml(path, overrides), path, FilterRecipe)
