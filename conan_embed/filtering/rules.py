"""The heuristic rules: each one a name, a sentence, a value measured on a pair, and the bounds within which it passes.

A value is a polars expression over a batch that carries its measures (`measures.with_measures`) and languages
(`language.with_languages`). Bounds differ for Chinese and English, since a Chinese character says about as much as
three or four Latin ones; Japanese text takes the Chinese bounds, everything else the English ones. A recipe switches a
rule off, moves its bounds, or lets it skip categories and sources, all by name (see `recipe.RuleSetting`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from conan_embed.errors import UserError, suggestion
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


def _share(side: str, *kinds: str) -> pl.Expr:
    """Share of the characters that are not white space."""
    visible = pl.col(f"{side}_characters") - pl.col(f"{side}_spaces")
    return pl.sum_horizontal(f"{side}_{kind}" for kind in kinds) / visible.clip(1)


def _matched_share(side: str, pattern: str) -> pl.Expr:
    """Share of the characters of a text that the pattern matches."""
    rest = pl.col(side).str.replace_all(pattern, "").str.len_chars()
    matched = pl.col(f"{side}_characters") - rest.cast(pl.Int32)
    # Most texts have no match at all, and looking is much cheaper than replacing.
    return (
        pl.when(pl.col(side).str.contains(pattern))
        .then(matched / pl.col(f"{side}_characters").clip(1))
        .otherwise(0.0)
    )


_LINK = r"(?i)https?:/{1,2}[^\s<>，。；、）]*|\bwww\.[^\s<>，。；、）]+"
_MENTION = r"@[\p{L}\p{N}_-]{1,30}[:：]?|(?:回复|回覆|转发|//)\s*@[\p{L}\p{N}_-]{1,30}[:：]?|#[^#\s]{1,40}#"
_EMOTICON = r"\[[\p{Han}A-Za-z]{1,8}\]"
# What a page, an app or a forum writes by itself, whatever the text is about.
BOILERPLATE = (
    "转发微博",
    "轉發微博",
    "转发此微博",
    "快转微博",
    "转发了",
    "查看原文",
    "阅读原文",
    "阅读全文",
    "展开全文",
    "点击查看更多",
    "点击查看",
    "点击下载",
    "点击这里",
    "未经授权",
    "未经许可",
    "不得转载",
    "禁止转载",
    "版权所有",
    "保留所有权利",
    "版权声明",
    "责任编辑",
    "扫码关注",
    "扫描二维码",
    "关注公众号",
    "微信公众号",
    "加载中",
    "请先登录",
    "登录后查看",
    "页面不存在",
    "此微博已被删除",
    "抱歉，此微博已被作者删除",
    "该内容已被删除",
    "抱歉，您访问的页面",
    "本帖最后由",
    "上一篇",
    "下一篇",
    "相关阅读",
    "相关推荐",
    "all rights reserved",
    "terms of service",
    "privacy policy",
    "cookie policy",
    "accept cookies",
    "enable javascript",
    "javascript is disabled",
    "click here",
    "read more",
    "sign in to",
    "log in to",
    "subscribe to our newsletter",
    "page not found",
    "404 not found",
    "share this",
    "leave a comment",
    "skip to content",
    "back to top",
    "table of contents",
    "previous article",
    "next article",
    "repost",
)
_BOILERPLATE_PATTERN = "(?i)" + "|".join(sorted(BOILERPLATE, key=len, reverse=True))
_UNFINISHED = (
    r"(?:[,，、:：;；(（《“‘\[【]|\b(?:and|or|the|of|to|with|a|an|in|for)|以及|或者|并且|如下|但是)$"
)
_BROKEN = r"�|锟斤拷|烫烫烫|屯屯屯|[ÃÂ][\u0080-\u00bf]|â€|ï¿½|\\u[0-9a-f]{4}"


def _repeated_lines() -> pl.Expr:
    """Share of the lines of four and more characters that were there before, of texts of four and more such lines."""
    lines = (
        pl.col("positive").str.split("\n").list.eval(pl.element().filter(pl.element().str.len_chars() >= 4))
    )
    share = 1 - lines.list.n_unique() / lines.list.len()
    many = pl.col("positive").str.count_matches("\n", literal=True) >= 3
    return pl.when(many & (lines.list.len() >= 4)).then(share).otherwise(0.0)


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


def _both_sides(
    name: str, about: str, value: Mapping[str, pl.Expr], query: Bounds, positive: Bounds
) -> list[Rule]:
    bounds = {"query": query, "positive": positive}
    return [
        Rule(f"{side}_{name}", f"{about} of the {side}", side, value[side], bounds[side], bounds[side])
        for side in ("query", "positive")
    ]


RULES: tuple[Rule, ...] = (
    Rule(
        "query_characters",
        "characters of the query",
        "query",
        pl.col("query_characters"),
        within(2, 800),
        within(3, 2400),
    ),
    Rule(
        "positive_characters",
        "characters of the positive",
        "positive",
        pl.col("positive_characters"),
        within(4, 8000),
        within(10, 24000),
        skip=("kb_xiehouyu",),
    ),
    Rule(
        "query_tokens",
        "Han characters and words of the query",
        "query",
        pl.col("query_tokens"),
        within(2, 600),
        within(1, 400),
    ),
    Rule(
        "positive_tokens",
        "Han characters and words of the positive",
        "positive",
        pl.col("positive_tokens"),
        within(4, 6000),
        within(3, 4000),
        skip=("kb_xiehouyu",),
    ),
    Rule(
        "length_ratio",
        "characters of the query for one of the positive",
        "positive",
        pl.col("query_characters") / pl.col("positive_characters").clip(1),
        at_most(25),
        at_most(25),
    ),
    *_both_sides(
        "letters",
        "share of Han characters and letters among the visible characters",
        {side: _share(side, "han", "kana", "hangul", "letters") for side in ("query", "positive")},
        at_least(0.3),
        at_least(0.4),
    ),
    *_both_sides(
        "digits",
        "share of digits among the visible characters",
        {side: _share(side, "digits") for side in ("query", "positive")},
        at_most(0.5),
        at_most(0.35),
    ),
    *_both_sides(
        "punctuation",
        "share of punctuation among the visible characters",
        {side: _share(side, "punctuation") for side in ("query", "positive")},
        at_most(0.5),
        at_most(0.4),
    ),
    *_both_sides(
        "symbols",
        "share of symbols and unassigned characters among the visible characters",
        {side: _share(side, "symbols", "others") for side in ("query", "positive")},
        at_most(0.15),
        at_most(0.1),
    ),
    *_both_sides(
        "emoji",
        "share of characters in emoji and bracketed emoticons",
        {side: _share(side, "emoji") + _matched_share(side, _EMOTICON) for side in ("query", "positive")},
        at_most(0.3),
        at_most(0.4),
    ),
    *_both_sides(
        "links",
        "share of characters in addresses, mentions and hash tags",
        {
            side: (_matched_share(side, _LINK) + _matched_share(side, _MENTION)).clip(0, 1)
            for side in ("query", "positive")
        },
        at_most(0.5),
        at_most(0.4),
    ),
    Rule(
        "repeated_lines",
        "share of the positive's lines that it said before",
        "positive",
        _repeated_lines(),
        at_most(0.4),
        at_most(0.4),
    ),
    Rule(
        "repeated_grams",
        "share of the positive's runs of eight characters that it said before",
        "positive",
        pl.col("positive_repeated").cast(pl.Float64),
        at_most(0.4),
        at_most(0.5),
    ),
    Rule(
        "copy",
        "share of the positive that only copies the query",
        "positive",
        _copied(),
        at_most(0.8),
        at_most(0.8),
    ),
    Rule(
        "boilerplate",
        "share of the positive in phrases that pages and apps write by themselves",
        "positive",
        _matched_share("positive", _BOILERPLATE_PATTERN),
        at_most(0.3),
        at_most(0.3),
    ),
    Rule(
        "truncated",
        "1 where a positive of one line breaks off (a comma, a colon, an open bracket, a conjunction at its end)",
        "positive",
        (
            pl.col("positive").str.slice(-8).str.contains(_UNFINISHED) & (pl.col("positive_characters") < 120)
        ).cast(pl.Float64),
        at_most(0),
        at_most(0),
    ),
    Rule(
        "mojibake",
        "broken characters in a hundred characters of the pair",
        "positive",
        100
        * (pl.col("query").str.count_matches(_BROKEN) + pl.col("positive").str.count_matches(_BROKEN))
        / (pl.col("query_characters") + pl.col("positive_characters")).clip(1),
        at_most(0.5),
        at_most(0.5),
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
    given = [own.model_dump(exclude_none=True), Bounds(minimum=setting.minimum, maximum=setting.maximum)]
    merged = {**default.model_dump(), **given[1].model_dump(exclude_none=True), **given[0]}  # type: ignore[union-attr]
    return Bounds(**merged)


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
