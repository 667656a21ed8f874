"""Prompt-response data of language models as pairs: readers of its formats, and a rule filter of its own.

Readers turn Alpaca records, ShareGPT and messages conversations into (prompt, response) pairs. The rules take
out what makes a poor pair for an embedding model: refusals, echoes of the prompt, answers of no content, code
or sums alone, and tasks whose answer shares no meaning with the prompt (sort these words, count the letters,
convert this to JSON). They apply to the pairs of sources marked `prompt_response`.
"""

import polars as pl

from conan_embed.errors import UserError
from conan_embed.filtering.measures import overlap
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
from conan_embed.filtering.recipe import Source
from conan_embed.filtering.rules import Rule, apply_rules, at_least, at_most
from conan_embed.filtering.stage import Outcome, with_reason

_PROMPT_ROLES = ["user", "human", "prompter", "question"]
_RESPONSE_ROLES = ["assistant", "gpt", "bot", "chatgpt", "model", "answer"]
ECHO_GRAM = 3


def _text(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.String).fill_null("").str.strip_chars()


def read_alpaca(records: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Turn `instruction`, `input` (may be absent), `output` into query and positive, one pair a record.

    Raises:
        UserError: a column is missing.
    """
    _need(records, ("instruction", "output"), source)
    given = _text("input") if "input" in records.columns else pl.lit("")
    prompt = pl.when(given.str.to_lowercase().is_in(["", "noinput", "<noinput>", "无输入"]))
    query = prompt.then(_text("instruction")).otherwise(
        pl.concat_str([_text("instruction"), given], separator="\n")
    )
    return records.with_columns(query.alias("query"), _text("output").alias("positive"))


def read_messages(records: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Turn conversations into query and positive.

    A pair is a user's message and the assistant's message right after it; system messages are passed over.
    `turns` of the source says which pairs of a conversation are taken; with `context`, up to two earlier
    messages stand in front of the prompt, one a line.

    Raises:
        UserError: there is no column `messages` or `conversations`, or its items have no role and content.
    """
    column = next(
        (name for name in ("messages", "conversations", "conversation") if name in records.columns), None
    )
    if column is None:
        found = ", ".join(records.columns)
        raise UserError(f"{source.path}: no column 'messages' or 'conversations' (found: {found}).")
    kind = records.schema[column]
    inner = kind.inner if isinstance(kind, pl.List) else None
    fields = [field.name for field in inner.fields] if isinstance(inner, pl.Struct) else []
    role = next((name for name in ("role", "from") if name in fields), None)
    content = next((name for name in ("content", "value") if name in fields), None)
    if role is None or content is None:
        raise UserError(
            f"{source.path}: {column!r} must hold objects with role and content, or from and value "
            f"(found: {fields})."
        )
    others = [name for name in records.columns if name != column]
    turns = (
        records.with_row_index("_record")
        .explode(column)
        .with_columns(
            pl.col(column).struct.field(role).str.to_lowercase().alias("_role"),
            pl.col(column).struct.field(content).fill_null("").str.strip_chars().alias("_content"),
        )
        .filter(pl.col("_role").is_in([*_PROMPT_ROLES, *_RESPONSE_ROLES]))
    )
    before = [pl.col("_content").shift(back).over("_record") for back in (2, 1)]
    query = pl.col("_content")
    if source.turns == "context":
        query = pl.concat_str([*before, query], separator="\n", ignore_nulls=True)
    pairs = turns.with_columns(
        query.alias("query"),
        pl.col("_content").shift(-1).over("_record").alias("positive"),
        pl.col("_role").shift(-1).over("_record").alias("_next"),
    ).filter(pl.col("_role").is_in(_PROMPT_ROLES) & pl.col("_next").is_in(_RESPONSE_ROLES))
    if source.turns == "first":
        pairs = pairs.unique("_record", keep="first", maintain_order=True)
    return pairs.select("query", "positive", *others)


def _need(records: pl.DataFrame, columns: tuple[str, ...], source: Source) -> None:
    for name in columns:
        if name not in records.columns:
            raise UserError(f"{source.path}: no column {name!r} (found: {', '.join(records.columns)}).")


def _starts(patterns: tuple[str, ...], characters: int) -> pl.Expr:
    return pl.col("positive").str.slice(0, characters).str.contains(any_of(patterns))


def _code_share() -> pl.Expr:
    # The look for a sign of code costs a tenth of CODE_LINE. (Emptied, not null: nulls are worked on like the rest.)
    signed = pl.col("positive").str.contains(CODE_SIGN)
    text = pl.when(signed).then(pl.col("positive")).otherwise(pl.lit(""))
    rest = text.str.replace_all(CODE_LINE, "").str.replace_all(r"\s", "").str.len_chars()
    share = 1 - rest / (pl.col("positive_characters") - pl.col("positive_spaces")).clip(1)
    return pl.when(signed).then(share).otherwise(0.0)


def _sum_share() -> pl.Expr:
    # As with code: a quarter of the responses has any such character.
    positive = pl.col("positive")
    text = pl.when(positive.str.contains(SUM_CHARACTER)).then(positive).otherwise(pl.lit(""))
    text = text.str.replace_all(LIST_NUMBER, "").str.replace_all(r"\s", "")
    return text.str.count_matches(SUM_CHARACTER) / text.str.len_chars().clip(1)


def _flag_rule(name: str, about: str, side: str, flag: pl.Expr) -> Rule:
    return Rule(name, f"1 where {about}", side, flag.cast(pl.Float64), zh=at_most(0), en=at_most(0))


PROMPT_RESPONSE_RULES: tuple[Rule, ...] = (
    _flag_rule(
        "refusal",
        "the response opens with an apology and says that it cannot, or says so outright, unasked for",
        "positive",
        ((_starts(APOLOGY, 40) & _starts(UNABLE, 120)) | _starts(CANNOT, 40))
        & ~pl.col("query").str.contains(any_of(ASKS_FOR_APOLOGY))
        & ~_starts(SYMPATHY, 40),
    ),
    _flag_rule(
        "language_model",
        "the response speaks of itself as a language model in its first 200 characters",
        "positive",
        _starts(AI_MODEL, 200),
    ),
    _flag_rule(
        "placeholder",
        "a side has a placeholder in place of a picture or a file, or the response one in place of an output",
        "positive",
        pl.col("query").str.contains(any_of(PLACEHOLDER))
        | pl.col("positive").str.contains(any_of((*PLACEHOLDER, *NO_OUTPUT))),
    ),
    _flag_rule(
        "missing_input",
        "a prompt of one line ends by naming a text that should follow",
        "query",
        ~pl.col("query").str.contains("\n", literal=True)
        & pl.col("query").str.contains(any_of(INPUT_WANTED)),
    ),
    _flag_rule(
        "letter_task",
        "the prompt is a task on letters, order or format (sort, count, convert, continue the list), "
        "and not the question how to do it",
        "query",
        # One by one: together they are too much for the fast path of the engine (five times slower).
        pl.any_horizontal(pl.col("query").str.contains(any_of((pattern,))) for pattern in LETTER_TASK)
        & ~pl.col("query").str.contains(any_of(ASKS_FOR_METHOD)),
    ),
    Rule(
        "echo",
        "share of the response's runs of three characters that stand in the prompt",
        "positive",
        pl.col("_echo"),
        zh=at_most(0.8),
        en=at_most(0.9),
    ),
    Rule(
        "rewrite",
        "Jaccard similarity of the runs of three characters of prompt and response",
        "positive",
        pl.col("_rewrite"),
        zh=at_most(0.8),
        en=at_most(0.8),
    ),
    _flag_rule(
        "generic_answer",
        "the whole response is a phrase that fits any prompt",
        "positive",
        pl.col("positive").str.contains(rf"(?i)^\W*(?:{'|'.join(GENERIC)})\W*$"),
    ),
    Rule(
        "short_answer",
        "Han characters and words of the response",
        "positive",
        pl.col("positive_tokens"),
        zh=at_least(6),
        en=at_least(3),
    ),
    Rule(
        "code_answer",
        "share of the response's visible characters in lines of code",
        "positive",
        _code_share(),
        zh=at_most(0.7),
        en=at_most(0.7),
    ),
    Rule(
        "arithmetic_answer",
        "share of the response's visible characters in digits and operators",
        "positive",
        _sum_share(),
        zh=at_most(0.5),
        en=at_most(0.5),
    ),
    _flag_rule(
        "unfinished_answer",
        "the response breaks off (a comma, an open bracket, a conjunction at its end)",
        "positive",
        pl.col("positive").str.slice(-8).str.contains(any_of(BREAKS_OFF)),
    ),
)


def with_echo(pairs: pl.DataFrame) -> pl.DataFrame:
    """Add `_echo` and `_rewrite`: the runs of three characters in common, over the response's and over
    all.
    """
    common, query, positive = overlap(pairs["query"], pairs["positive"], ECHO_GRAM)
    return pairs.with_columns(
        pl.Series("_echo", common / positive.clip(1)),
        pl.Series("_rewrite", common / (query + positive - common).clip(1)),
    )


def check_prompt_response(pairs: pl.DataFrame, rules: list[Rule]) -> Outcome:
    """Apply the prompt-response rules to the pairs whose `prompt_response` is true."""
    marked = pairs.filter("prompt_response")
    if not marked.height:  # most shards: patterns to compile for nothing
        return Outcome(pairs, with_reason(marked, "prompt_response"), {})
    outcome = apply_rules(with_echo(marked), rules, "prompt_response")
    kept = pairs.join(outcome.dropped, on="id", how="anti", maintain_order="left")
    return Outcome(kept, outcome.dropped, outcome.applied)
