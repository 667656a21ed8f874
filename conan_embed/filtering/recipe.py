"""The recipe of a filter run: what is read, which stages run, and every threshold, as typed objects.

`FilterRecipe` is the whole of it; `recipes/filter-default.yaml` spells out its defaults. A key that nobody
reads is an error. Rules are set by name: `links: false` switches one off, `links: {maximum: 0.5}` moves its
threshold for all languages, `links: {zh: {maximum: 0.5}}` for one, `links: {skip: [weibo]}` leaves a category
or a source alone.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from conan_embed.errors import UserError

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Part):
    """One collection of raw pairs: files of one format, with a category.

    Attributes:
        path: a file, a folder or a glob; Parquet (`.parquet`), JSON lines (`.jsonl`) or one JSON array
            (`.json`).
        name: stands in the column `source` of every pair; the stem of each file where it is not given.
        format: `pairs` (two text columns), `alpaca` (instruction, input, output) or `messages` (ShareGPT
            `conversations` with from/value, or `messages` with role/content).
        query, positive: the columns of a `pairs` source.
        category: a word for the table of the funnel; the column `category` where it is not given.
        prompt_response: whether the prompt-response rules apply; by default they do for `alpaca` and
            `messages`, and for the categories `instruction` and `llm_generated`.
        turns: what a conversation of several turns gives: its `first` exchange, `each` exchange as a pair of
            its own, or each with up to two earlier messages in front of the prompt (`context`).
    """

    path: str
    name: str | None = None
    format: Literal["pairs", "alpaca", "messages"] = "pairs"
    query: str = "query"
    positive: str = "positive"
    category: str | None = None
    prompt_response: bool | None = None
    turns: Literal["first", "each", "context"] = "first"


class Normalise(_Part):
    """How texts are made alike before anything is measured. `enabled: false` takes them as they are."""

    enabled: bool = True
    form: Literal["NFKC", "NFC"] = "NFKC"
    keep_chinese_punctuation: bool = True
    markup: bool = True
    mojibake: bool = True


class Language(_Part):
    """Which languages both sides may have.

    Attributes:
        keep: languages of pairs that stay.
        candidates: what a text in Latin or Cyrillic letters is told apart from (py3langid); Chinese, Japanese
            and Korean are told by their scripts.
        minimum_letters: a text with fewer letters counts as `und` (undetermined), which always stays.
        minimum_probability: under it the text counts as `und`, too.
        same: whether both sides must be in the same language.
    """

    enabled: bool = True
    keep: tuple[str, ...] = ("zh", "en")
    candidates: tuple[str, ...] = (
        "en", "de", "fr", "es", "it", "pt", "nl", "pl", "tr", "vi", "id", "ru", "uk", "ar",
    )  # fmt: skip
    minimum_letters: int = Field(default=24, ge=1)
    minimum_probability: Share = 0.9
    same: bool = False


class Bounds(_Part):
    """The values that pass: `minimum <= value <= maximum`; a bound that is absent does not bind."""

    minimum: float | None = None
    maximum: float | None = None


def _switch(value: Any) -> Any:
    return {"enabled": value} if isinstance(value, bool) else value


class RuleSetting(_Part):
    """What a recipe says about one rule; what it does not say stays at the rule's default."""

    enabled: bool = True
    minimum: float | None = None
    maximum: float | None = None
    zh: Bounds = Bounds()
    en: Bounds = Bounds()
    skip: tuple[str, ...] = ()


Settings = dict[str, Annotated[RuleSetting, BeforeValidator(_switch)]]


class Duplicates(_Part):
    """Exact and near-duplicates.

    Two texts are near-duplicates when the Jaccard similarity of their character 5-grams is at least
    `threshold`; two pairs, when both their sides are. MinHash of `bands * rows` values finds the candidates,
    each of which is then compared exactly: with 12 bands of 5 rows a text of similarity 0.8 is missed with
    probability (1 - 0.8^5)^12 = 0.9 %, one of similarity 0.85 with 0.09 %.

    Attributes:
        near: whether near-duplicates count, or only equal ones.
        query_at_most, positive_at_most: how many pairs may share one query (or near-duplicates of it), and
            one positive; null for no limit. A positive under many queries is mostly a phrase that fits
            anywhere.
    """

    enabled: bool = True
    near: bool = True
    threshold: Share = 0.8
    bands: int = Field(default=12, ge=1, le=64)
    rows: int = Field(default=5, ge=1, le=32)
    query_at_most: int | None = Field(default=30, ge=1)
    positive_at_most: int | None = Field(default=10, ge=1)


class Safety(_Part):
    """Block lists.

    Attributes:
        default_words: the Chinese and English lists of the package glin-profanity.
        default_minimum: so many different words of those lists make a pair unsafe (one alone is mostly
            medicine, law or news).
        words: files of the user's own, one word or phrase a line; one is enough.
        domains: files with one domain a line; a pair that links to it or to a subdomain is dropped.
    """

    enabled: bool = True
    default_words: bool = True
    default_minimum: int = Field(default=2, ge=1)
    words: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()


class Decontaminate(_Part):
    """Evaluation texts that no side of a kept pair may repeat.

    Attributes:
        paths: files, folders (read recursively) or globs of Parquet; every string or list-of-strings column
            whose name is in `columns` is read.
        near: whether near-duplicates (Jaccard of character 5-grams) count.
        minimum_characters: shorter evaluation texts are not looked for ("thanks", "good").
    """

    enabled: bool = True
    paths: tuple[str, ...] = ()
    columns: tuple[str, ...] = (
        "query", "positive", "negative", "text", "text_a", "text_b", "title", "sentence1", "sentence2",
    )  # fmt: skip
    near: bool = True
    threshold: Share = 0.8
    minimum_characters: int = Field(default=6, ge=1)


class Ranking(_Part):
    """Ranking consistency: the positive is among the `top` best passages for its query, by the teacher.

    The passages are the positives of the pair's own shard, at most `pool` of them.
    """

    enabled: bool = False
    top: int = Field(default=20, ge=1)
    pool: int = Field(default=20_000, ge=2)


class Teacher(_Part):
    """Scores of a given embedding model; pairs under `minimum` go (0.4 in the paper, section 2.1)."""

    model: str | None = None
    minimum: float = Field(default=0.4, ge=-1.0, le=1.0)
    query_prompt: str | None = None
    positive_prompt: str | None = None
    ranking: Ranking = Ranking()


class Engine(_Part):
    """How the work is cut.

    Attributes:
        shard_rows: rows of one unit of work; what is lost when the run is killed, and what is in memory at
            once.
        workers: processes; null for one a core.
        memory: what DuckDB may use for the join of the duplicates; the rest goes through `work/` on disk.
        samples: dropped pairs a rule that `summary.json` shows.
        keep_work: leave the intermediate files in `work/`.
    """

    shard_rows: int = Field(default=50_000, ge=1)
    workers: int | None = Field(default=None, ge=1)
    memory: str = "1.5GB"
    samples: int = Field(default=20, ge=0)
    keep_work: bool = False


class FilterRecipe(_Part):
    """Everything that decides which pairs are kept.

    Example:
        >>> recipe = ce.FilterRecipe(sources=[{"path": "faq.jsonl"}], language={"keep": ["en"]})
        >>> recipe.duplicates.threshold
        0.8
    """

    sources: tuple[Source, ...] = Field(min_length=1)
    normalise: Normalise = Normalise()
    language: Language = Language()
    rules: Settings = {}
    prompt_response: Settings = {}
    duplicates: Duplicates = Duplicates()
    safety: Safety = Safety()
    decontaminate: Decontaminate = Decontaminate()
    teacher: Teacher = Teacher()
    engine: Engine = Engine()

    @model_validator(mode="after")
    def _known_rules(self) -> "FilterRecipe":
        # Rules know the recipe's types, so they are looked up here, when a recipe is read, and not at import.
        from conan_embed.filtering.prompt_response import PROMPT_RESPONSE_RULES
        from conan_embed.filtering.rules import RULES, active_rules

        active_rules(RULES, self.rules, "rules")
        active_rules(PROMPT_RESPONSE_RULES, self.prompt_response, "prompt_response")
        return self


def read_filter_recipe(path: str | Path) -> FilterRecipe:
    """Read a recipe from YAML; relative paths in it are taken from the working directory.

    Raises:
        UserError: the file is missing, is not YAML, has an unknown key or a value of the wrong kind.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}.") from None
    try:
        return FilterRecipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the recipe"
        raise UserError(f"{path}: {key}: {first['msg']} (found {first['input']!r:.80}).") from None
