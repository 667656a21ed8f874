"""Normalise texts before anything is measured: mojibake, mark-up, Unicode form, control characters, white space.

All of it is vectorised in polars; only texts that look like mojibake go through ftfy one by one. Texts that repeat in a
batch are normalised once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import ftfy
import polars as pl

from conan_embed.filtering.recipe import Normalise
from conan_embed.filtering.stage import Outcome, split

# Chinese text is written with these, and NFKC would turn them into ASCII. They hide in the private use area while it
# runs; private use characters of the text itself are removed first.
_CHINESE_PUNCTUATION = "，！？：；（）…～"
_HIDDEN = [chr(0xE000 + i) for i in range(len(_CHINESE_PUNCTUATION))]

_HTML = (
    "a|abbr|article|aside|audio|b|blockquote|body|br|button|caption|center|cite|code|col|colgroup|dd|del|details|div|dl|dt|"
    "em|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|label|li|link|"
    "main|mark|meta|nav|noscript|object|ol|option|p|param|picture|pre|q|rp|rt|ruby|s|samp|section|select|small|source|span|"
    "strike|strong|sub|summary|sup|svg|table|tbody|td|tfoot|th|thead|time|title|tr|tt|u|ul|var|video|embed"
)
_FORUM = "b|i|u|s|url|img|quote|code|mw_shl_code|color|size|font|align|attach|backcolor|list|table|tr|td|email|media"
_ROLES = "numref|label|eqref|cite|ref|doc|term|func|class|meth|mod"
_ENTITIES = {
    "&nbsp;": " ",
    "&lt;": "<",
    "&gt;": ">",
    "&quot;": '"',
    "&#34;": '"',
    "&#39;": "'",
    "&#039;": "'",
    "&apos;": "'",
    "&ldquo;": "“",
    "&rdquo;": "”",
    "&lsquo;": "‘",
    "&rsquo;": "’",
    "&mdash;": "—",
    "&ndash;": "–",
    "&hellip;": "…",
    "&middot;": "·",
    "&copy;": "©",
    "&reg;": "®",
    "&amp;": "&",
}
# Bytes of UTF-8 read as Latin-1 or Windows-1252 leave such pairs behind.
_MOJIBAKE = "[ÃÂâåæçèéäï][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]"


# Lines of tables and drawn-out punctuation; three of each stay.
_DRAWN_OUT = (
    r"(?P<a>---)-+|(?P<b>===)=+|(?P<c>___)_+|(?P<d>───)─+|(?P<e>\.\.\.)\.+|(?P<f>。。。)。+|(?P<g>！！！)！+"
)
# Characters that every Unicode form leaves alone, alone and side by side, and that are never removed.
_ORDINARY = r"\t\n\x20-\x7e·–—‘’“”、。〃《》「」『』【】〔〕\u3041-\u3094\u30a1-\u30fa\u4e00-\u9fff"
_UNUSUAL = f"[^{_ORDINARY}{_CHINESE_PUNCTUATION}]"
# What `_tidy` would change, in a text of ordinary characters or one that is in form.
_UNTIDY = r"  | \n|\n |\n\n\n|^\s|\s$|\t|----|====|____|────|\.{4}|。{4}|！{4}"
# No text without one of these has any mark-up.
_MARKUP = r"[<&*#\[`>~]|__|---|:[a-z_]+:"


def _without_markup(texts: pl.Series) -> pl.Series:
    texts = _replace_matching(texts, "[<&\ue010\ue011]", _without_tags)
    texts = _replace_matching(texts, r"\[", _without_links)
    texts = texts.to_frame("text").select(_without_line_marks(pl.col("text")))["text"]
    return _replace_matching(texts, rf"\*\*|__|:(?:begin|end|{_ROLES})", _without_emphasis)


def _without_tags(text: pl.Expr) -> pl.Expr:
    """Take out HTML tags and entities, which all have a `<` or an `&`."""
    # A tag in the code marks of Markdown is what the text is about: it hides while tags go.
    text = text.str.replace_all(r"`<(/?[\w-]+[^`<>\n]{0,80})>`", "`\ue010$1\ue011`")
    text = text.str.replace_all(r"(?is)<(script|style)\b.*?</(script|style)\s*>|<!--.*?-->", " ")
    text = text.str.replace_all(r"(?i)<(?:/?p|br|/?div|/?li|/?tr|/?h[1-6])(?:\s[^<>]*)?/?>", "\n")
    text = text.str.replace_all(rf"(?i)</?(?:{_HTML})(?:\s[^<>]*)?/?>", " ")
    return text.str.replace_many([*_ENTITIES, "\ue010", "\ue011"], [*_ENTITIES.values(), "<", ">"])


def _without_links(text: pl.Expr) -> pl.Expr:
    """Take out what stands in brackets for a forum or for Markdown: images leave, links keep their words."""
    text = text.str.replace_all(rf"(?i)\[/?(?:{_FORUM})(?:=[^\]\n]{{0,80}})?\]", "")
    text = text.str.replace_all(r"!\[[^\]]*\](?:\([^()\s]*(?:\s+\"[^\"]*\")?\)|\[[^\]]*\])", " ")
    text = text.str.replace_all(r"\[([^\[\]]+)\](?:\((?:[^()]|\([^()]*\))*\)|\[[^\[\]\n]{0,60}\])", "$1")
    return text.str.replace_all(r"(?m)^\s*\[[^\[\]\n]{1,60}\]:\s*\S+.*$", "")


def _without_line_marks(text: pl.Expr) -> pl.Expr:
    """Take out what begins a line in Markdown: marks of headings and quotes, fences and rules."""
    return text.str.replace_all(r"(?m)^[ \t]*(?:#{1,6}[ \t]+|>[ \t]?|```.*$|~~~.*$|(?:[-*_][ \t]*){3,}$)", "")


def _without_emphasis(text: pl.Expr) -> pl.Expr:
    """Take out Markdown's marks of emphasis and the roles and tabs of d2l."""
    text = text.str.replace_all(r"\*\*([^*\n]+)\*\*|__([^_\n]+)__", "$1$2")
    text = text.str.replace_all(r":(?:begin|end)_tab:(?:`[^`]*`)?", "")
    return text.str.replace_all(rf"\*\*|:(?:{_ROLES}):", "")


def _fix_mojibake(text: pl.Series) -> pl.Series:
    return pl.Series([ftfy.fix_encoding(each) for each in text], dtype=pl.String)


def _map_matching(texts: pl.Series, pattern: str, change: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """Change the texts that match the pattern; searching costs a fraction of replacing nothing."""
    matches = texts.str.contains(pattern)
    return texts.clone().scatter(matches.arg_true(), change(texts.filter(matches)))  # scatter works in place


def _replace_matching(texts: pl.Series, pattern: str, change: Callable[[pl.Expr], pl.Expr]) -> pl.Series:
    """Change the texts that match the pattern by an expression."""
    return _map_matching(
        texts, pattern, lambda few: few.to_frame("text").select(change(pl.col("text")))["text"]
    )


def normalise_texts(texts: pl.Series, setting: Normalise) -> pl.Series:
    """Return the texts normalised.

    In this order: mojibake is repaired; HTML tags and entities and Markdown marks are removed (words of links stay,
    images go); the Unicode form is applied, except to Chinese full-width punctuation; control, zero-width and private
    use characters are removed; drawn-out dashes and full stops are cut to three, runs of blanks to one; lines are
    stripped, and at most one empty line in a row stays.
    """
    clean = texts
    if setting.mojibake:
        clean = _map_matching(clean, _MOJIBAKE, _fix_mojibake)
    if setting.markup:
        clean = _map_matching(clean, _MARKUP, _without_markup)

    def apply_form_and_tidy(few: pl.Series) -> pl.Series:
        few = _replace_matching(few, _UNUSUAL, lambda text: _apply_form(text, setting.form))
        return _replace_matching(few, _UNTIDY, _tidy)

    # Both are searched for at once: most texts need neither, and reading them is half the time.
    return _map_matching(clean, f"{_UNUSUAL}|{_UNTIDY}", apply_form_and_tidy).rename(texts.name)


def _apply_form(text: pl.Expr, form: Literal["NFKC", "NFC"]) -> pl.Expr:
    """Apply the Unicode form, except to Chinese punctuation, and remove characters that cannot be seen."""
    text = text.str.replace_all(r"[\p{Co}\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u00ad]", "")
    text = text.str.replace_many(list(_CHINESE_PUNCTUATION), _HIDDEN)
    text = text.str.normalize(form)
    text = text.str.replace_many(_HIDDEN, list(_CHINESE_PUNCTUATION))
    text = text.str.replace_all(r"\r\n?|[\u2028\u2029]", "\n")
    text = text.str.replace_all(r"[^\P{Cc}\n\t]", "")
    return text.str.replace_all(r"[\p{Zs}&&[^ ]]", "\t")  # blanks of all kinds: `_tidy` knows two


def _tidy(text: pl.Expr) -> pl.Expr:
    """Cut what is drawn out, and bring blanks and empty lines to one kind."""
    text = text.str.replace_all(_DRAWN_OUT, "$a$b$c$d$e$f$g")
    # Single spaces, one in five characters of English, are no matches, nor are line ends without blanks.
    text = text.str.replace_all(r"  [ \t]*| ?\t[ \t]*", " ")
    text = text.str.replace_all(r" \n ?|\n ", "\n").str.replace_all(r"\n{3,}", "\n\n")
    return text.str.strip_chars()


@dataclass(frozen=True)
class Normaliser:
    """The stage: normalise both sides and drop the pairs that have an empty side. A missing text is an empty one."""

    setting: Normalise
    name: str = "normalise"

    def __call__(self, pairs: pl.DataFrame) -> Outcome:
        pairs = pairs.with_columns(pl.col("query", "positive").fill_null(""))
        if self.setting.enabled:
            pairs = pairs.with_columns(self._normalised(pairs[side]) for side in ("query", "positive"))
        empty = (pl.col("query") == "") | (pl.col("positive") == "")
        return split(pairs, self.name, {"empty": (empty, pl.lit(None))})

    def _normalised(self, texts: pl.Series) -> pl.Series:
        distinct = texts.unique(maintain_order=True).to_frame()
        distinct = distinct.with_columns(clean=normalise_texts(distinct[texts.name], self.setting))
        joined = texts.to_frame().join(distinct, on=texts.name, how="left", maintain_order="left")
        return joined["clean"].rename(texts.name)
