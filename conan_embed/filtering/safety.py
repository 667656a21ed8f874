"""Safety: pairs with blocked words, and pairs that link to blocked domains.

The default words come from the package glin-profanity (MIT; Chinese and English). One such word alone is
mostly medicine, law or news, so `default_minimum` different ones are asked for. Lists of the user's own need
one.
"""

import json
import re
from dataclasses import dataclass
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


def _lines(path: str) -> set[str]:
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
    default: set[str] = set()
    if setting.default_words:
        folder = resources.files("glin_profanity") / "data" / "dictionaries"
        for name in ("chinese.json", "english.json"):
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            default |= {word.lower() for word in (found["words"] if isinstance(found, dict) else found)}
        # A word is letters: the lists also hold numbers and single characters.
        default = {
            word for word in default - set(SPARED_WORDS) if len(word) > 1 and not re.search(r"\d", word)
        }
    words = {word for path in setting.words for word in _lines(path)}
    domains = {
        re.sub(r"^(?:https?://)?(?:www\.)?|/.*$", "", line)
        for path in setting.domains
        for line in _lines(path)
    }
    return BlockLists(frozenset(default), frozenset(words), frozenset(domains))


def with_hosts(pairs: pl.DataFrame) -> pl.DataFrame:
    """Add `hosts`, the hosts that either side links to (list of lower-case strings). Call before links are
    normalised away.
    """
    both = pl.concat_str("query", "positive", separator="\n", ignore_nulls=True)
    hosts = (
        both.str.to_lowercase()
        .str.extract_all(_HOST)
        .list.eval(pl.element().str.extract(_HOST, 1))
        .list.unique()
    )
    return pairs.with_columns(hosts.alias("hosts"))


def _different(pairs: pl.DataFrame, words: frozenset[str]) -> pl.Series:
    """Count the different words of a list in both sides of each pair, in any case; words of Latin letters must
    stand alone.
    """
    latin = sorted((word for word in words if re.match(r"[a-z]", word)), key=len, reverse=True)
    other = sorted(words - set(latin))
    alone = r"(?-u:\b)(?:" + "|".join(map(re.escape, latin)) + r")(?-u:\b)"
    # Hardly a pair has any of them: those are found first, and only theirs are counted. Words without cases, most of
    # the others, are found in two thirds of the time when cases need not be looked at.
    cased = [word for word in other if word.upper() != word]
    uncased = [word for word in other if word.upper() == word]
    patterns = [f"(?i){alone}"] * bool(latin)
    patterns += [f"(?i){'|'.join(map(re.escape, cased))}"] * bool(cased)
    patterns += ["|".join(map(re.escape, uncased))] * bool(uncased)
    hit = pairs.select(
        pl.any_horizontal(
            pl.col(side).str.contains(pattern) for pattern in patterns for side in ("query", "positive")
        )
    ).to_series()
    found = pairs.filter(hit).select(
        pl.concat_str("query", "positive", separator="\n").str.to_lowercase().alias("text")
    )["text"]
    count = pl.zeros(len(found), dtype=pl.UInt32, eager=True)
    if latin:
        count += found.str.extract_all(alone).list.n_unique()
    if other:
        count += found.str.extract_many(other).list.n_unique()
    return pl.zeros(pairs.height, dtype=pl.UInt32, eager=True).scatter(hit.arg_true(), count)


def _blocked_hosts(domains: frozenset[str]) -> pl.Expr:
    """Count the hosts that are a blocked domain or below one."""
    depth = max(domain.count(".") for domain in domains) + 1
    ends = [pl.element().str.extract(rf"((?:[^.]+\.){{{level}}}[^.]+)$", 1) for level in range(depth)]
    blocked = pl.any_horizontal(end.is_in(list(domains)) for end in ends)
    return pl.col("hosts").list.eval(blocked).list.sum()


def check_safety(pairs: pl.DataFrame, lists: BlockLists, setting: Safety) -> Outcome:
    """Drop pairs by `unsafe_words` (the default list), `blocked_words`, `blocked_domains`; the value counts
    the hits.
    """
    counts: dict[str, tuple[pl.Series | pl.Expr, int]] = {}
    if lists.default_words:
        counts["unsafe_words"] = (_different(pairs, lists.default_words), setting.default_minimum)
    if lists.words:
        counts["blocked_words"] = (_different(pairs, lists.words), 1)
    if lists.domains and "hosts" in pairs.columns:
        counts["blocked_domains"] = (_blocked_hosts(lists.domains), 1)
    counted = pairs.with_columns(count.alias(f"_{name}") for name, (count, _) in counts.items())
    reasons = {name: (pl.col(f"_{name}") >= least, pl.col(f"_{name}")) for name, (_, least) in counts.items()}
    outcome = split(counted, "safety", reasons)
    return Outcome(outcome.kept.select(pairs.columns), outcome.dropped, outcome.applied)
