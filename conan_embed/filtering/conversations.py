"""Prompt-response data as pairs: Alpaca records, ShareGPT and messages conversations."""

import polars as pl

from conan_embed.errors import UserError
from conan_embed.filtering.recipe import Source

_PROMPT_ROLES = ["user", "human", "prompter", "question"]
_RESPONSE_ROLES = ["assistant", "gpt", "bot", "chatgpt", "model", "answer"]


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
