"""The heuristic rules: a name, a description, a value measured on a pair, and the bounds within which it passes.

A value is a polars expression over a batch that carries its measures (`measures.py`) and languages (`language.py`).
Bounds differ for Chinese and English, since a Chinese character says about as much as three or four Latin ones;
Japanese uses the Chinese bounds, everything else the English ones. A recipe switches rules off, moves their bounds, or
lets them skip categories and sources, by name (`bounds.RuleSettings`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import polars as pl

from conan_embed.errors import UserError, suggestion
from conan_embed.filtering.bounds import Bounds, RulesByName, RuleSettings, at_least, at_most, between
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
from conan_embed.filtering.stage import Outcome, split


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: the key in the recipe and the reason in `dropped_by`.
        about: what the value is, in one sentence.
        side: the side whose language chooses the bounds.
        value: the expression; null where the rule does not apply.
        zh, en: the default bounds.
        skip: categories and sources that the rule leaves alone.
    """

    name: str
    about: str
    side: str
    value: pl.Expr
    zh: Bounds
    en: Bounds
    skip: tuple[str, ...] = ()

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

    def with_settings(self, settings: RuleSettings) -> "Rule":
        """Return the rule with a recipe's bounds; those of one language win over those for all."""
        return replace(
            self,
            zh=self.zh.replaced_by(settings, settings.zh),
            en=self.en.replaced_by(settings, settings.en),
            skip=(*self.skip, *settings.skip),
        )


def _outside(value: pl.Expr, bounds: Bounds) -> pl.Expr:
    outside = pl.lit(False)
    if bounds.minimum is not None:
        outside |= value < bounds.minimum
    if bounds.maximum is not None:
        outside |= value > bounds.maximum
    return outside


def rule(
    name: str,
    side: str,
    about: str,
    value: pl.Expr,
    bounds: Bounds,
    *,
    en: Bounds | None = None,
    skip: tuple[str, ...] = (),
) -> Rule:
    """Return a rule; `bounds` are those of Chinese, and of English where `en` is not given."""
    return Rule(name, about, side, value, bounds, bounds if en is None else en, skip)


def flag_rule(name: str, side: str, about: str, flag: pl.Expr) -> Rule:
    """Return a rule that drops the pairs for which `flag` is true; its value is 1 there, else 0."""
    return rule(name, side, f"1 where {about}", flag.cast(pl.Float64), at_most(0))


_SIDES = ("query", "positive")
_MENTION_CHARACTERS = 40  # of the name in a mention, at most


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
    """Share of the characters of a text in mentions: an @, a name of at most 40 characters, and a colon.

    In two steps, since one pattern with forty letters of any script takes longer to compile than to search for.
    """
    name = pl.element().str.extract(f"^(@[^:：]{{1,{_MENTION_CHARACTERS}}}[:：]?)").str.len_chars()
    mentioned = pl.col(side).str.extract_all(MENTION).list.eval(name).list.sum()
    return mentioned / pl.col(f"{side}_characters").clip(1)


def _repeated_lines(positives: pl.Series) -> pl.Series:
    """Return the share of a text's lines that repeat an earlier one: Float64.

    Only lines of four and more characters count, in texts that have at least four of them.
    """
    texts = positives.to_frame("line").with_row_index("text")
    lines = texts.filter(pl.col("line").str.count_matches("\n", literal=True) >= 3)
    lines = lines.with_columns(pl.col("line").str.split("\n")).explode("line")
    lines = lines.filter(pl.col("line").str.len_chars() >= 4)
    share = 1 - pl.col("line").n_unique() / pl.len()
    repeated = lines.group_by("text").agg(share=pl.when(pl.len() >= 4).then(share).otherwise(0.0))
    return pl.zeros(len(positives), eager=True).scatter(repeated["text"], repeated["share"])


def _copied_share() -> pl.Expr:
    """Share of the positive that is the query itself (1 where the query holds the whole positive)."""
    query, positive = pl.col("query"), pl.col("positive")
    share = pl.col("query_characters") / pl.col("positive_characters").clip(1)
    whole = pl.when(query.str.contains(positive, literal=True)).then(1.0)
    return whole.when(positive.str.contains(query, literal=True)).then(share).otherwise(0.0)


def _broken_characters() -> pl.Expr:
    """Broken characters in a hundred characters of the pair."""
    broken = pl.sum_horizontal(pl.col(side).str.count_matches(BROKEN) for side in _SIDES)
    return 100 * broken / pl.sum_horizontal(f"{side}_characters" for side in _SIDES).clip(1)


def _both_sides(
    name: str, about: str, value: Callable[[str], pl.Expr], bounds: Bounds, *, en: Bounds | None = None
) -> list[Rule]:
    """Return the rule for each side; `value(side)` measures it."""
    return [
        rule(f"{side}_{name}", side, f"{about} of the {side}", value(side), bounds, en=en) for side in _SIDES
    ]


_NAVIGATION_AT_END = rf"(?i)(?:^|\s)(?:{'|'.join(NAVIGATION)})[:：]?$"
_ENDS_EARLY = pl.col("positive").str.slice(-8).str.contains(any_of((*BREAKS_OFF, *ANNOUNCES)))
_VISIBLE = "among the visible characters"

# fmt: off
RULES: tuple[Rule, ...] = (
    rule("query_characters", "query", "characters of the query",
         pl.col("query_characters"), between(2, 800), en=between(2, 2400)),
    rule("positive_characters", "positive", "characters of the positive",
         pl.col("positive_characters"), between(2, 8000), en=between(8, 24000)),
    rule("query_tokens", "query", "Han characters and words of the query",
         pl.col("query_tokens"), between(2, 600), en=between(1, 400)),
    # A Chinese answer or comment of less than six characters fits anything; a dictionary entry is a saying of four.
    rule("positive_tokens", "positive", "Han characters and words of the positive",
         pl.col("positive_tokens"), between(6, 6000), en=between(3, 4000), skip=("knowledge_base",)),
    rule("length_ratio", "positive", "characters of the query for one of the positive",
         pl.col("query_characters") / pl.col("positive_characters").clip(1), at_most(25)),
    *_both_sides("letters", f"share of Han characters and letters {_VISIBLE}",
                 lambda side: _share(side, "han", "kana", "hangul", "letters"), at_least(0.25), en=at_least(0.4)),
    *_both_sides("digits", f"share of digits {_VISIBLE}", lambda side: _share(side, "digits"), at_most(0.6)),
    *_both_sides("punctuation", f"share of punctuation {_VISIBLE}",
                 lambda side: _share(side, "punctuation"), at_most(0.5), en=at_most(0.45)),
    *_both_sides("symbols", f"share of symbols and unassigned characters {_VISIBLE}",
                 lambda side: _share(side, "symbols", "others"), at_most(0.15), en=at_most(0.1)),
    *_both_sides("emoji", "share of characters in emoji and bracketed emoticons",
                 lambda side: _share(side, "emoji") + _matched_share(side, EMOTICON), at_most(0.4), en=at_most(0.3)),
    *_both_sides("links", "share of characters in addresses and mentions",
                 lambda side: _matched_share(side, ADDRESS) + _mentioned_share(side), at_most(0.5)),
    rule("repeated_lines", "positive", "share of the positive's lines that repeat an earlier one",
         pl.col("positive").map_batches(_repeated_lines, return_dtype=pl.Float64), at_most(0.6)),
    rule("repeated_grams", "positive", "share of the positive's runs of eight characters that repeat an earlier one",
         pl.col("positive_repeated").cast(pl.Float64), at_most(0.7)),
    rule("copy", "positive", "share of the positive that only copies the query", _copied_share(), at_most(0.8)),
    rule("boilerplate", "positive", "share of the positive in stock phrases of web pages and apps",
         _matched_share("positive", any_of(BOILERPLATE)), at_most(0.3)),
    flag_rule("navigation", "query", "the query ends in a heading of links (see also, references)",
              pl.col("query").str.slice(-24).str.contains(_NAVIGATION_AT_END)),
    flag_rule("truncated", "positive",
              "a positive of less than 120 characters breaks off (a comma, a colon, a conjunction)",
              _ENDS_EARLY & (pl.col("positive_characters") < 120)),
    rule("mojibake", "positive", "broken characters in a hundred characters of the pair",
         _broken_characters(), at_most(0.5)),
)
# fmt: on


def active_rules(rules: Sequence[Rule], settings: RulesByName, key: str) -> list[Rule]:
    """Return the rules that run under a recipe's settings, with its bounds.

    Raises:
        UserError: `settings` names a rule that does not exist.
    """
    names = [rule.name for rule in rules]
    for name in settings:
        if name not in names:
            known = ", ".join(names)
            raise UserError(f"{key}.{name}: unknown rule{suggestion(name, names)}; expected one of {known}.")
    default = RuleSettings()
    enabled = [rule for rule in rules if settings.get(rule.name, default).enabled]
    return [rule.with_settings(settings.get(rule.name, default)) for rule in enabled]


@dataclass(frozen=True)
class Rules:
    """The stage: a pair goes by the first rule that it breaks. Needs measures and languages of both sides."""

    rules: Sequence[Rule]
    name: str = "rules"

    def __call__(self, pairs: pl.DataFrame) -> Outcome:
        # Each value is computed once, then compared, reported and thrown away.
        values = pairs.with_columns(rule.value.cast(pl.Float64).alias(f"_{rule.name}") for rule in self.rules)
        columns = {rule.name: pl.col(f"_{rule.name}") for rule in self.rules}
        reasons = {rule.name: (rule.drops(columns[rule.name]), columns[rule.name]) for rule in self.rules}
        outcome = split(values, self.name, reasons)
        return replace(outcome, kept=outcome.kept.select(pairs.columns))
