"""The heuristic rules: each one a name, a sentence, a value measured on a pair, and the bounds within which
it passes.

A value is a polars expression over a batch that carries its measures (`measures.with_measures`) and languages
(`language.with_languages`). Bounds differ for Chinese and English, since a Chinese character says about as
much as three or four Latin ones; Japanese text takes the Chinese bounds, everything else the English ones. A
recipe switches a rule off, moves its bounds, or lets it skip categories and sources, all by name (see
`recipe.RuleSetting`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from conan_embed.errors import UserError, suggestion
from conan_embed.filtering.phrases import (
    ADDRESS,
    ANNOUNCES,
    BOILERPLATE,
    BREAKS_OFF,
    BROKEN,
    EMOTICON,
    MENTION,
    NAVIGATION,
    any_of,
)
from conan_embed.filtering.recipe import Bounds, RuleSetting
from conan_embed.filtering.stage import Outcome, split


@dataclass(frozen=True)
class Rule:
    """Attributes:
    name: the key in the recipe and the reason in `dropped_by`.
    about: what the value is, in one sentence.
    side: whose language chooses the bounds.
    value: the expression; null where the rule does not apply.
    zh, en: the default bounds.
    skip: categories and sources that the rule leaves alone.
    enabled: whether it runs when the recipe says nothing.
    """

    name: str
    about: str
    side: str
    value: pl.Expr
    zh: Bounds
    en: Bounds
    skip: tuple[str, ...] = ()
    enabled: bool = True

    def drops(self, value: pl.Expr) -> pl.Expr:
        """Return whether a pair with this value goes: boolean."""
        if self.zh == self.en:
            outside = _outside(value, self.zh)
        else:
            language = pl.col(f"{self.side}_language")
            chinese = language.is_in(["zh", "ja"]) | ((language == "und") & (pl.col(f"{self.side}_han") > 0))
            outside = pl.when(chinese).then(_outside(value, self.zh)).otherwise(_outside(value, self.en))
        if self.skip:
            names = list(self.skip)
            outside &= ~(pl.col("category").is_in(names) | pl.col("source").is_in(names))
        return outside


def _outside(value: pl.Expr, bounds: Bounds) -> pl.Expr:
    outside = pl.lit(False)
    if bounds.minimum is not None:
        outside |= value < bounds.minimum
    if bounds.maximum is not None:
        outside |= value > bounds.maximum
    return outside


def at_least(minimum: float) -> Bounds:
    return Bounds(minimum=minimum)


def at_most(maximum: float) -> Bounds:
    return Bounds(maximum=maximum)


def within(minimum: float, maximum: float) -> Bounds:
    return Bounds(minimum=minimum, maximum=maximum)


_SIDES = ("query", "positive")
_NAME = 40  # characters of a name that is mentioned, at most


def _share(side: str, *kinds: str) -> pl.Expr:
    """Share of the characters that are not white space."""
    visible = pl.col(f"{side}_characters") - pl.col(f"{side}_spaces")
    return pl.sum_horizontal(f"{side}_{kind}" for kind in kinds) / visible.clip(1)


def _matched_share(side: str, pattern: str) -> pl.Expr:
    """Share of the characters of a text that the pattern matches."""
    rest = pl.col(side).str.replace_all(pattern, "").str.len_chars().cast(pl.Int32)
    characters = pl.col(f"{side}_characters")
    return (characters - rest) / characters.clip(1)


def _mentioned_share(side: str) -> pl.Expr:
    """Share of the characters of a text in mentions: an @ and a name of at most 40 characters, with a colon.

    In two steps, since forty letters of any script in one pattern take longer to compile than to look for.
    """
    name = pl.element().str.extract(f"^(@[^:：]{{1,{_NAME}}}[:：]?)").str.len_chars()
    mentioned = pl.col(side).str.extract_all(MENTION).list.eval(name).list.sum()
    return mentioned / pl.col(f"{side}_characters").clip(1)


def _repeated_lines(positives: pl.Series) -> pl.Series:
    """Return the share of the lines of four and more characters that were there before, of texts of four and more
    such lines: Float64.
    """
    # Only texts of many lines are cut.
    texts = positives.to_frame("line").with_row_index("text")
    lines = texts.filter(pl.col("line").str.count_matches("\n", literal=True) >= 3)
    lines = lines.with_columns(pl.col("line").str.split("\n")).explode("line")
    lines = lines.filter(pl.col("line").str.len_chars() >= 4)
    share = 1 - pl.col("line").n_unique() / pl.len()
    found = lines.group_by("text").agg(share=pl.when(pl.len() >= 4).then(share).otherwise(0.0))
    return pl.zeros(len(positives), eager=True).scatter(found["text"], found["share"])


def _copied() -> pl.Expr:
    """Share of the positive that is the query itself (or 1 where the query holds the whole positive)."""
    query, positive = pl.col("query"), pl.col("positive")
    inside = pl.col("query_characters") / pl.col("positive_characters").clip(1)
    return (
        pl.when(query.str.contains(positive, literal=True))
        .then(1.0)
        .when(positive.str.contains(query, literal=True))
        .then(inside)
        .otherwise(0.0)
    )


def _breaks_off() -> pl.Expr:
    return pl.col("positive").str.slice(-8).str.contains(any_of((*BREAKS_OFF, *ANNOUNCES)))


def _flag(flag: pl.Expr) -> pl.Expr:
    """Return a condition as a value: 1 where it holds, else 0."""
    return flag.cast(pl.Float64)


def _both_sides(name: str, about: str, value: Mapping[str, pl.Expr], *, zh: Bounds, en: Bounds) -> list[Rule]:
    return [Rule(f"{side}_{name}", f"{about} of the {side}", side, value[side], zh, en) for side in _SIDES]


RULES: tuple[Rule, ...] = (
    Rule(
        "query_characters",
        "characters of the query",
        "query",
        pl.col("query_characters"),
        zh=within(2, 800),
        en=within(2, 2400),
    ),
    Rule(
        "positive_characters",
        "characters of the positive",
        "positive",
        pl.col("positive_characters"),
        zh=within(2, 8000),
        en=within(8, 24000),
    ),
    Rule(
        "query_tokens",
        "Han characters and words of the query",
        "query",
        pl.col("query_tokens"),
        zh=within(2, 600),
        en=within(1, 400),
    ),
    # Under six characters a Chinese answer or comment fits anything; a dictionary's is a saying of four.
    Rule(
        "positive_tokens",
        "Han characters and words of the positive",
        "positive",
        pl.col("positive_tokens"),
        zh=within(6, 6000),
        en=within(3, 4000),
        skip=("knowledge_base",),
    ),
    Rule(
        "length_ratio",
        "characters of the query for one of the positive",
        "positive",
        pl.col("query_characters") / pl.col("positive_characters").clip(1),
        zh=at_most(25),
        en=at_most(25),
    ),
    *_both_sides(
        "letters",
        "share of Han characters and letters among the visible characters",
        {side: _share(side, "han", "kana", "hangul", "letters") for side in _SIDES},
        zh=at_least(0.25),
        en=at_least(0.4),
    ),
    *_both_sides(
        "digits",
        "share of digits among the visible characters",
        {side: _share(side, "digits") for side in _SIDES},
        zh=at_most(0.6),
        en=at_most(0.6),
    ),
    *_both_sides(
        "punctuation",
        "share of punctuation among the visible characters",
        {side: _share(side, "punctuation") for side in _SIDES},
        zh=at_most(0.5),
        en=at_most(0.45),
    ),
    *_both_sides(
        "symbols",
        "share of symbols and unassigned characters among the visible characters",
        {side: _share(side, "symbols", "others") for side in _SIDES},
        zh=at_most(0.15),
        en=at_most(0.1),
    ),
    *_both_sides(
        "emoji",
        "share of characters in emoji and bracketed emoticons",
        {side: _share(side, "emoji") + _matched_share(side, EMOTICON) for side in _SIDES},
        zh=at_most(0.4),
        en=at_most(0.3),
    ),
    *_both_sides(
        "links",
        "share of characters in addresses and mentions",
        {side: _matched_share(side, ADDRESS) + _mentioned_share(side) for side in _SIDES},
        zh=at_most(0.5),
        en=at_most(0.5),
    ),
    Rule(
        "repeated_lines",
        "share of the positive's lines that it said before",
        "positive",
        pl.col("positive").map_batches(_repeated_lines, return_dtype=pl.Float64),
        zh=at_most(0.6),
        en=at_most(0.6),
    ),
    Rule(
        "repeated_grams",
        "share of the positive's runs of eight characters that it said before",
        "positive",
        pl.col("positive_repeated").cast(pl.Float64),
        zh=at_most(0.7),
        en=at_most(0.7),
    ),
    Rule(
        "copy",
        "share of the positive that only copies the query",
        "positive",
        _copied(),
        zh=at_most(0.8),
        en=at_most(0.8),
    ),
    Rule(
        "boilerplate",
        "share of the positive in phrases that pages and apps write by themselves",
        "positive",
        _matched_share("positive", any_of(BOILERPLATE)),
        zh=at_most(0.3),
        en=at_most(0.3),
    ),
    Rule(
        "navigation",
        "1 where the query ends in a heading of links (see also, references)",
        "query",
        _flag(pl.col("query").str.slice(-24).str.contains(rf"(?i)(?:^|\s)(?:{'|'.join(NAVIGATION)})[:：]?$")),
        zh=at_most(0),
        en=at_most(0),
    ),
    Rule(
        "truncated",
        "1 where a positive of less than 120 characters breaks off (a comma, a colon, a conjunction)",
        "positive",
        _flag(_breaks_off() & (pl.col("positive_characters") < 120)),
        zh=at_most(0),
        en=at_most(0),
    ),
    Rule(
        "mojibake",
        "broken characters in a hundred characters of the pair",
        "positive",
        100
        * pl.sum_horizontal(pl.col(side).str.count_matches(BROKEN) for side in _SIDES)
        / pl.sum_horizontal(f"{side}_characters" for side in _SIDES).clip(1),
        zh=at_most(0.5),
        en=at_most(0.5),
    ),
)


def active_rules(rules: Sequence[Rule], settings: Mapping[str, RuleSetting], key: str) -> list[Rule]:
    """Return the rules that run under the recipe's settings, with its bounds.

    Raises:
        UserError: `settings` names a rule that does not exist.
    """
    names = [rule.name for rule in rules]
    for name in settings:
        if name not in names:
            raise UserError(
                f"{key}.{name}: no such rule{suggestion(name, names)}; there are {', '.join(names)}."
            )
    chosen = []
    for rule in rules:
        setting = settings.get(rule.name)
        if setting is None:
            if rule.enabled:
                chosen.append(rule)
        elif setting.enabled:
            chosen.append(
                replace(
                    rule,
                    zh=_merged(rule.zh, setting, setting.zh),
                    en=_merged(rule.en, setting, setting.en),
                    skip=(*rule.skip, *setting.skip),
                )
            )
    return chosen


def _merged(default: Bounds, setting: RuleSetting, own: Bounds) -> Bounds:
    """Bounds of one language: its own where given, else those for all languages, else the default."""
    minimum, maximum = (
        next((bound for bound in bounds if bound is not None), None)
        for bounds in (
            (own.minimum, setting.minimum, default.minimum),
            (own.maximum, setting.maximum, default.maximum),
        )
    )
    return Bounds(minimum=minimum, maximum=maximum)


def apply_rules(pairs: pl.DataFrame, rules: Sequence[Rule], stage: str) -> Outcome:
    """Drop the pairs that a rule's bounds do not let pass.

    Args:
        pairs: pairs with measures and languages of both sides.
        rules: what to apply, in order; a pair goes by the first that it breaks.
        stage: the name of the stage in the funnel.
    """
    # Each value is computed once, then compared, reported and thrown away.
    values = pairs.with_columns(rule.value.cast(pl.Float64).alias(f"_{rule.name}") for rule in rules)
    reasons = {}
    for rule in rules:
        value = pl.col(f"_{rule.name}")
        reasons[rule.name] = (rule.drops(value), value)
    outcome = split(values, stage, reasons)
    return Outcome(outcome.kept.select(pairs.columns), outcome.dropped, outcome.applied)
