"""The rules for prompt-response data of language models.

They drop what makes a poor pair for an embedding model: refusals, echoes of the prompt, answers without content,
answers of nothing but code or sums, and tasks whose answer shares no meaning with the prompt (sort these words, count
the letters, convert this to JSON). They apply to pairs whose `prompt_response` is true (see `recipe.Source`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from conan_embed.filtering.bounds import at_least, at_most
from conan_embed.filtering.grams import overlap
from conan_embed.filtering.phrases import (
    AI_MODEL,
    APOLOGY,
    ASKS_FOR_APOLOGY,
    ASKS_FOR_METHOD,
    BREAKS_OFF,
    CANNOT,
    CODE_LINE,
    CODE_SIGN,
    GENERIC,
    INPUT_WANTED,
    LETTER_TASK,
    LIST_NUMBER,
    NO_OUTPUT,
    PLACEHOLDER,
    SUM_CHARACTER,
    SYMPATHY,
    UNABLE,
    any_of,
)
from conan_embed.filtering.rules import Rule, Rules, flag_rule, rule
from conan_embed.filtering.stage import Outcome, keep_all

ECHO_GRAM = 3  # characters


def _starts(patterns: tuple[str, ...], characters: int) -> pl.Expr:
    """Return whether a pattern is found in the first `characters` of the response."""
    return pl.col("positive").str.slice(0, characters).str.contains(any_of(patterns))


def _code_share() -> pl.Expr:
    # Searching for a sign of code costs a tenth of CODE_LINE. (Emptied, not null: nulls are processed like the rest.)
    has_sign = pl.col("positive").str.contains(CODE_SIGN)
    text = pl.when(has_sign).then(pl.col("positive")).otherwise(pl.lit(""))
    rest = text.str.replace_all(CODE_LINE, "").str.replace_all(r"\s", "").str.len_chars()
    share = 1 - rest / (pl.col("positive_characters") - pl.col("positive_spaces")).clip(1)
    return pl.when(has_sign).then(share).otherwise(0.0)


def _sum_share() -> pl.Expr:
    # As with code: only a quarter of the responses has any such character.
    positive = pl.col("positive")
    text = pl.when(positive.str.contains(SUM_CHARACTER)).then(positive).otherwise(pl.lit(""))
    text = text.str.replace_all(LIST_NUMBER, "").str.replace_all(r"\s", "")
    return text.str.count_matches(SUM_CHARACTER) / text.str.len_chars().clip(1)


_QUERY, _POSITIVE = pl.col("query"), pl.col("positive")
_IS_REFUSAL = (
    ((_starts(APOLOGY, 40) & _starts(UNABLE, 120)) | _starts(CANNOT, 40))
    & ~_QUERY.str.contains(any_of(ASKS_FOR_APOLOGY))
    & ~_starts(SYMPATHY, 40)
)
_HAS_PLACEHOLDER = _QUERY.str.contains(any_of(PLACEHOLDER)) | _POSITIVE.str.contains(
    any_of((*PLACEHOLDER, *NO_OUTPUT))
)
# One by one: together the patterns are too much for the fast path of the engine (five times slower).
_IS_LETTER_TASK = pl.any_horizontal(_QUERY.str.contains(any_of((pattern,))) for pattern in LETTER_TASK)

# fmt: off
PROMPT_RESPONSE_RULES: tuple[Rule, ...] = (
    flag_rule("refusal", "positive",
              "the response opens with an apology and says that it cannot, or says so outright, unasked for",
              _IS_REFUSAL),
    flag_rule("language_model", "positive",
              "the response speaks of itself as a language model in its first 200 characters",
              _starts(AI_MODEL, 200)),
    flag_rule("placeholder", "positive",
              "a side has a placeholder in place of a picture or a file, or the response one in place of an output",
              _HAS_PLACEHOLDER),
    flag_rule("missing_input", "query", "a prompt of one line ends by naming a text that should follow",
              ~_QUERY.str.contains("\n", literal=True) & _QUERY.str.contains(any_of(INPUT_WANTED))),
    flag_rule("letter_task", "query",
              "the prompt is a task on letters, order or format (sort, count, convert, continue the list), "
              "and not the question how to do it",
              _IS_LETTER_TASK & ~_QUERY.str.contains(any_of(ASKS_FOR_METHOD))),
    rule("echo", "positive", "share of the response's runs of three characters that stand in the prompt",
         pl.col("_echo"), at_most(0.8), en=at_most(0.9)),
    rule("rewrite", "positive", "Jaccard similarity of the runs of three characters of prompt and response",
         pl.col("_rewrite"), at_most(0.8)),
    flag_rule("generic_answer", "positive", "the whole response is a phrase that fits any prompt",
              _POSITIVE.str.contains(rf"(?i)^\W*(?:{'|'.join(GENERIC)})\W*$")),
    rule("short_answer", "positive", "Han characters and words of the response",
         pl.col("positive_tokens"), at_least(6), en=at_least(3)),
    rule("code_answer", "positive", "share of the response's visible characters in lines of code",
         _code_share(), at_most(0.7)),
    rule("arithmetic_answer", "positive", "share of the response's visible characters in digits and operators",
         _sum_share(), at_most(0.5)),
    flag_rule("unfinished_answer", "positive",
              "the response breaks off (a comma, an open bracket, a conjunction at its end)",
              _POSITIVE.str.slice(-8).str.contains(any_of(BREAKS_OFF))),
)
# fmt: on


def with_echo(pairs: pl.DataFrame) -> pl.DataFrame:
    """Add `_echo` and `_rewrite`: the common runs of three characters, over the response's and over all of them."""
    common, query, positive = overlap(pairs["query"], pairs["positive"], ECHO_GRAM)
    return pairs.with_columns(
        pl.Series("_echo", common / positive.clip(1)),
        pl.Series("_rewrite", common / (query + positive - common).clip(1)),
    )


@dataclass(frozen=True)
class PromptResponseRules:
    """The stage: the rules, for the pairs whose `prompt_response` is true."""

    rules: Sequence[Rule]
    name: str = "prompt_response"

    def __call__(self, pairs: pl.DataFrame) -> Outcome:
        marked = pairs.filter("prompt_response")
        if not marked.height:  # most shards: their patterns need not be compiled
            return keep_all(pairs, self.name)
        outcome = Rules(self.rules, self.name)(with_echo(marked))
        return replace(outcome, kept=pairs.join(outcome.dropped, on="id", how="anti", maintain_order="left"))
