"""Safety: pairs with blocked words, and pairs that link to blocked domains.

The default words come from the package glin-profanity (MIT; Chinese and English). A single one of them is mostly
medicine, law or news, so `min_default_words` different ones must occur; of your own lists, one is enough.
"""

import json
import re
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import polars as pl

from conan_embed.errors import UserError
from conan_embed.filtering.phrases import SPARED_WORDS
from conan_embed.filtering.recipe import Safety
from conan_embed.filtering.stage import Outcome, split

_HOST = r"(?i)(?:https?://|\bwww\.)([a-z0-9-]+(?:\.[a-z0-9-]+)+)"


@dataclass(frozen=True)
class BlockLists:
    """Attributes:
    default_words, words: lower-case words and phrases.
    domains: lower-case domains without `www.`.
    """

    default_words: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()


def _read_list(path: str) -> set[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a block list: {error}.") from None
    return {line.strip().lower() for line in text.splitlines() if line.strip() and not line.startswith("#")}


def read_block_lists(setting: Safety) -> BlockLists:
    """Read the lists that the recipe names (one entry a line, `#` begins a comment line).

    Raises:
        UserError: a file cannot be read.
    """
    domains = (
        re.sub(r"^(?:https?://)?(?:www\.)?|/.*$", "", line)
        for path in setting.domains
        for line in _read_list(path)
    )
    return BlockLists(
        frozenset(_default_words() if setting.default_words else ()),
        frozenset(word for path in setting.words for word in _read_list(path)),
        frozenset(domains),
    )


def _default_words() -> set[str]:
    words: set[str] = set()
    folder = resources.files("glin_profanity") / "data" / "dictionaries"
    for name in ("chinese.json", "english.json"):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        words |= {word.lower() for word in (content["words"] if isinstance(content, dict) else content)}
    # The lists also hold numbers and single characters, which are no words.
    return {word for word in words - SPARED_WORDS if len(word) > 1 and not re.search(r"\d", word)}


def with_hosts(pairs: pl.DataFrame) -> pl.DataFrame:
    """Add `hosts`, the hosts that either side links to (list of lower-case strings).

    Call it before links are normalised away.
    """
    both = pl.concat_str("query", "positive", separator="\n", ignore_nulls=True)
    hosts = both.str.to_lowercase().str.extract_all(_HOST).list.eval(pl.element().str.extract(_HOST, 1))
    return pairs.with_columns(hosts.list.unique().alias("hosts"))


def _count_words(pairs: pl.DataFrame, words: frozenset[str]) -> pl.Series:
    """Count the different words of a list in both sides of each pair, in any case; Latin words must stand alone."""
    latin = sorted((word for word in words if re.match(r"[a-z]", word)), key=len, reverse=True)
    other = sorted(words - set(latin))
    alone = r"(?-u:\b)(?:" + "|".join(map(re.escape, latin)) + r")(?-u:\b)"
    # Hardly any pair has one of them: those pairs are found first, and only their words are counted.
    patterns = [f"(?i){alone}"] * bool(latin) + _patterns(other)
    hit = pairs.select(
        pl.any_horizontal(
            pl.col(side).str.contains(pattern) for pattern in patterns for side in ("query", "positive")
        )
    ).to_series()
    both = pl.concat_str("query", "positive", separator="\n").str.to_lowercase()
    texts = pairs.filter(hit).select(both.alias("text"))["text"]
    count = pl.zeros(len(texts), dtype=pl.UInt32, eager=True)
    if latin:
        count += texts.str.extract_all(alone).list.n_unique()
    if other:
        count += texts.str.extract_many(other).list.n_unique()
    return pl.zeros(pairs.height, dtype=pl.UInt32, eager=True).scatter(hit.arg_true(), count)


def _patterns(words: list[str]) -> list[str]:
    """Return patterns that find any of the words; those without cases take a third less time alone."""
    cased = [re.escape(word) for word in words if word.upper() != word]
    uncased = [re.escape(word) for word in words if word.upper() == word]
    return [f"(?i){'|'.join(cased)}"] * bool(cased) + ["|".join(uncased)] * bool(uncased)


def _blocked_hosts(domains: frozenset[str]) -> pl.Expr:
    """Count the hosts that are a blocked domain or below one."""
    depth = max(domain.count(".") for domain in domains) + 1
    ends = [pl.element().str.extract(rf"((?:[^.]+\.){{{level}}}[^.]+)$", 1) for level in range(depth)]
    blocked = pl.any_horizontal(end.is_in(list(domains)) for end in ends)
    return pl.col("hosts").list.eval(blocked).list.sum()


@dataclass(frozen=True)
class Safe:
    """The stage: drop pairs with block-listed words or links; the value counts the hits.

    Reasons: `unsafe_words` (the default lists), `blocked_words` and `blocked_domains` (lists of your own).
    """

    lists: BlockLists
    setting: Safety
    name: str = "safety"

    def __call__(self, pairs: pl.DataFrame) -> Outcome:
        counts: dict[str, tuple[pl.Series | pl.Expr, int]] = {}
        if self.lists.default_words:
            unsafe = _count_words(pairs, self.lists.default_words)
            counts["unsafe_words"] = (unsafe, self.setting.min_default_words)
        if self.lists.words:
            counts["blocked_words"] = (_count_words(pairs, self.lists.words), 1)
        if self.lists.domains and "hosts" in pairs.columns:
            counts["blocked_domains"] = (_blocked_hosts(self.lists.domains), 1)
        counted = pairs.with_columns(count.alias(f"_{name}") for name, (count, _) in counts.items())
        columns = {name: pl.col(f"_{name}") for name in counts}
        reasons = {name: (columns[name] >= least, columns[name]) for name, (_, least) in counts.items()}
        outcome = split(counted, self.name, reasons)
        return replace(outcome, kept=outcome.kept.select(pairs.columns))
