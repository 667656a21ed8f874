"""Prompt-response data as pairs: Alpaca records and conversations."""

import polars as pl

from conan_embed.filtering.recipe import Turns

PROMPT_ROLES = ["user", "human", "prompter", "question"]
RESPONSE_ROLES = ["assistant", "gpt", "bot", "chatgpt", "model", "answer"]
_NO_INPUT = ["", "noinput", "<noinput>", "无输入"]


def alpaca_pairs(records: pl.DataFrame) -> pl.DataFrame:
    """Join `instruction` and `input` to the query; `output` is the positive. The other columns stay."""
    instruction, given, output = (
        pl.col(name).fill_null("").str.strip_chars() for name in ("instruction", "input", "output")
    )
    has_input = ~given.str.to_lowercase().is_in(_NO_INPUT)
    query = pl.when(has_input).then(pl.concat_str(instruction, given, separator="\n")).otherwise(instruction)
    return records.with_columns(query=query, positive=output).drop("instruction", "input", "output")


def conversation_pairs(records: pl.DataFrame, turns: Turns) -> pl.DataFrame:
    """Turn `messages` into pairs: a user's message and the assistant's message right after it.

    Messages of other roles (system, tool) are skipped. The other columns stay.

    Args:
        turns: see `recipe.Source`.
    """
    role, content = (pl.col("messages").struct.field(name) for name in ("role", "content"))
    messages = records.with_row_index("_record").explode("messages")
    messages = messages.with_columns(_role=role.str.to_lowercase(), _content=content.str.strip_chars())
    messages = messages.filter(pl.col("_role").is_in([*PROMPT_ROLES, *RESPONSE_ROLES]))

    def neighbour(column: str, offset: int) -> pl.Expr:
        return pl.col(column).shift(offset).over("_record")

    query = pl.col("_content")
    if turns == "context":
        earlier = [neighbour("_content", back) for back in (2, 1)]
        query = pl.concat_str(*earlier, query, separator="\n", ignore_nulls=True)
    pairs = messages.with_columns(
        query=query, positive=neighbour("_content", -1), _next=neighbour("_role", -1)
    ).filter(pl.col("_role").is_in(PROMPT_ROLES) & pl.col("_next").is_in(RESPONSE_ROLES))
    if turns == "first":
        pairs = pairs.unique("_record", keep="first", maintain_order=True)
    return pairs.drop("_record", "_role", "_content", "_next", "messages")
