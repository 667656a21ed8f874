"""Normalise texts before anything is measured: mojibake, mark-up, Unicode form, control characters, white space.

All of it is vectorised in polars; only texts that look like mojibake go through ftfy one by one. Texts that repeat in a
batch are normalised once.
"""

from dataclasses import dataclass
from typing import Literal

import ftfy
import polars as pl

from conan_embed.filtering.markup import ANY_MARKUP, map_matching, remove_markup, replace_matching
from conan_embed.filtering.recipe import Normalise
from conan_embed.filtering.stage import Outcome, split

# Chinese text is written with these, and NFKC would turn them into ASCII. They hide in the private use area while it
# runs; private use characters of the text itself are removed first.
_CHINESE_PUNCTUATION = "，！？：；（）…～"
_HIDDEN = [chr(0xE000 + i) for i in range(len(_CHINESE_PUNCTUATION))]

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


def _fix_mojibake(text: pl.Series) -> pl.Series:
    return pl.Series([ftfy.fix_encoding(each) for each in text], dtype=pl.String)


def normalise_texts(texts: pl.Series, setting: Normalise) -> pl.Series:
    """Return the texts normalised.

    In this order: mojibake is repaired; mark-up is removed (see `markup.py`); the Unicode form is applied, except to
    Chinese full-width punctuation; control, zero-width and private use characters are removed; drawn-out dashes and
    full stops are cut to three, runs of blanks to one; lines are stripped, and at most one empty line in a row stays.
    """
    clean = texts
    if setting.mojibake:
        clean = map_matching(clean, _MOJIBAKE, _fix_mojibake)
    if setting.markup:
        clean = map_matching(clean, ANY_MARKUP, remove_markup)

    def apply_form_and_tidy(few: pl.Series) -> pl.Series:
        few = replace_matching(few, _UNUSUAL, lambda text: _apply_form(text, setting.form))
        return replace_matching(few, _UNTIDY, _tidy)

    # Both are searched for at once: most texts need neither, and reading them is half the time.
    return map_matching(clean, f"{_UNUSUAL}|{_UNTIDY}", apply_form_and_tidy).rename(texts.name)


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
