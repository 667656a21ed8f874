"""Remove mark-up and nothing else: HTML, BBCode, Markdown, the roles of Sphinx and d2l.

Comparisons (`a<b and c>d`), indices (`x[i][j]`), powers (`2**3`), names (`__init__`) and tags that a text is about
("how to center a <div>") look like mark-up and are not. So a tag goes only if it is a known one with well-formed
attributes, and only from a text that shows elsewhere that it *is* HTML: a closing tag right behind a word, a quoted
attribute, a line break. BBCode goes only where a tag is closed; brackets and asterisks right behind a letter or a digit
are code.

Everything is a regular expression over a whole column; `replace_matching` applies the expensive ones only to texts in
which a cheap one is found.
"""

from collections.abc import Callable

import polars as pl

# No text without one of these has any mark-up.
ANY_MARKUP = r"[<&*#\[`>~]|__|---|:[a-z_]+:"

_ELEMENTS = (
    "a|abbr|article|aside|audio|b|blockquote|body|br|button|caption|center|cite|code|col|colgroup|dd|del|details|div|dl|dt|"
    "em|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|label|li|link|"
    "main|mark|meta|nav|noscript|object|ol|option|p|param|picture|pre|q|rp|rt|ruby|s|samp|section|select|small|source|span|"
    "strike|strong|sub|summary|sup|svg|table|tbody|td|tfoot|th|thead|time|title|tr|tt|u|ul|var|video|embed"
)
_BLOCKS = "/?p|br|/?div|/?li|/?tr|/?h[1-6]"
_VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s"'=<>`]+)"""
# Attributes without a value are listed: in `<p or q>` there are none.
_ATTRIBUTE = (
    rf"\s+(?:[a-zA-Z_:@][\w:.-]*\s*=\s*{_VALUE}|data-[\w-]+|disabled|checked|hidden|async|defer|controls|autoplay|loop|muted"
    r"|allowfullscreen|required|selected|readonly|multiple|open|nowrap|noshade|ismap|novalidate|autofocus|itemscope)"
)
_REST_OF_TAG = rf"(?:{_ATTRIBUTE})*\s*/?>"
# What only real HTML has: a closing tag right behind a word, an attribute, a line break, a comment, a block that begins
# a line. One by one: together they leave the fast path of the engine (a hundred times slower).
_SIGNS_OF_HTML = (
    rf"(?i)[^\s<>\"'“‘`(（「]</(?:{_ELEMENTS})\s*>",
    rf"(?i)<(?:{_ELEMENTS})\s[^<>]*=\s*[\"'][^<>]*>",
    r"(?i)<(?:img|a|font|input)\s+(?:src|href|color|size|type|name)\s*=",
    r"(?i)<br\s*/?>",
    r"(?i)<!--|<script\b|<style\b",
    r"(?im)^[ \t]*<(?:p|div|h[1-6]|li|td)>[^\s<>]",
)
# A tag that is named, in backticks or quotes or as "the <br> tag", hides while tags go.
_NAMED_TAG = (
    r"""([`"'“‘「])<(/?[\w-]+[^`<>\n]{0,80})>([`"'”’」])""",
    r"(?i)()<(/?[a-z][\w-]*)\s*/?>([ \t]*(?:tags?\b|elements?\b|标签|元素|标记))",
)
_ENTITIES = {
    "&nbsp;": " ", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#34;": '"', "&#39;": "'", "&#039;": "'", "&apos;": "'",
    "&ldquo;": "“", "&rdquo;": "”", "&lsquo;": "‘", "&rsquo;": "’", "&mdash;": "—", "&ndash;": "–", "&hellip;": "…",
    "&middot;": "·", "&copy;": "©", "&reg;": "®", "&amp;": "&",
}  # fmt: skip
_TARGET = r"(?:[^()]|\([^()]*\))*"
_FILE = r"[\w./%-]+\.(?:md|html?|rst|txt|pdf|png|jpe?g|gif)(?:#[^()]*)?"
_IMAGE = r"!\[[^\]]*\](?:\([^()\s]*(?:\s+\"[^\"]*\")?\)|\[[^\]]*\])"
_DEFINITION = r"(?m)^\s*\[[^\[\]\n]{1,60}\]:\s*\S+.*$"
_FORUM_TAGS = (
    "url|img|quote|code|mw_shl_code|color|size|font|align|attach|backcolor|list|table|tr|td|email|media"
)
_ROLES = "numref|label|eqref|cite|ref|doc|term|func|class|meth|mod"


def replace(texts: pl.Series, change: Callable[[pl.Expr], pl.Expr]) -> pl.Series:
    """Change texts by an expression."""
    return texts.to_frame("text").select(change(pl.col("text")).alias("text"))["text"]


def replace_where(texts: pl.Series, mask: pl.Series, change: Callable[[pl.Expr], pl.Expr]) -> pl.Series:
    """Change some of the texts by an expression."""
    return texts.clone().scatter(
        mask.arg_true(), replace(texts.filter(mask), change)
    )  # scatter works in place


def replace_matching(texts: pl.Series, pattern: str, change: Callable[[pl.Expr], pl.Expr]) -> pl.Series:
    """Change the texts that match the pattern; searching costs a fraction of replacing nothing."""
    return replace_where(texts, texts.str.contains(pattern), change)


def map_matching(texts: pl.Series, pattern: str, change: Callable[[pl.Series], pl.Series]) -> pl.Series:
    """Change the texts that match the pattern by a function of a column."""
    matches = texts.str.contains(pattern)
    return texts.clone().scatter(matches.arg_true(), change(texts.filter(matches)))


def remove_markup(texts: pl.Series) -> pl.Series:
    """Return the texts without mark-up: the words of links stay, images go."""
    texts = map_matching(texts, "<", _remove_tags)
    texts = replace_matching(texts, "[&\ue010\ue011]", _unescape)
    texts = replace_matching(texts, r"\[/", _remove_bbcode)
    texts = map_matching(texts, r"\]\(|\]\[|\]:", _remove_links)
    texts = replace(texts, _remove_line_marks)
    texts = replace_matching(texts, r"(?m)^[ \t]*>", _remove_quote_marks)
    texts = replace_matching(texts, r"\*\*", _remove_stars)
    texts = replace_matching(texts, "__", _remove_underscores)
    return replace_matching(texts, rf":(?:begin|end|{_ROLES})", _remove_roles)


def _remove_tags(texts: pl.Series) -> pl.Series:
    """Remove the tags of texts that are HTML, but for those that are named; these hide until `_unescape`."""
    hidden = replace(texts, _hide_named_tags)
    return replace_where(hidden, replace(hidden, _is_html), _strip_tags)


def _hide_named_tags(text: pl.Expr) -> pl.Expr:
    for pattern in _NAMED_TAG:
        text = text.str.replace_all(pattern, "$1\ue010$2\ue011$3")
    return text


def _is_html(text: pl.Expr) -> pl.Expr:
    return pl.any_horizontal(text.str.contains(sign) for sign in _SIGNS_OF_HTML)


def _strip_tags(text: pl.Expr) -> pl.Expr:
    text = text.str.replace_all(r"(?is)<(script|style)\b.*?</(script|style)\s*>|<!--.*?-->", " ")
    text = text.str.replace_all(rf"(?i)<(?:{_BLOCKS}){_REST_OF_TAG}", "\n")
    return text.str.replace_all(rf"(?i)</?(?:{_ELEMENTS}){_REST_OF_TAG}", " ")


def _unescape(text: pl.Expr) -> pl.Expr:
    return text.str.replace_many([*_ENTITIES, "\ue010", "\ue011"], [*_ENTITIES.values(), "<", ">"])


def _remove_bbcode(text: pl.Expr) -> pl.Expr:
    """Remove the tags of forums that are closed somewhere; of one letter, those that are closed themselves."""
    closed = text.str.contains(rf"(?i)\[/(?:{_FORUM_TAGS})\]")
    tags = rf"(?i)\[/?(?:{_FORUM_TAGS})(?:=[^\]\n]{{0,80}})?\]"
    text = pl.when(closed).then(text.str.replace_all(tags, "")).otherwise(text)
    for letter in "bius":
        closed = text.str.contains(rf"(?i)\[/{letter}\]")
        text = pl.when(closed).then(text.str.replace_all(rf"(?i)\[/?{letter}\]", "")).otherwise(text)
    return text


def _remove_links(texts: pl.Series) -> pl.Series:
    """Remove Markdown's images and the targets of its links."""
    texts = replace_matching(texts, r"!\[", lambda text: text.str.replace_all(_IMAGE, " "))
    texts = replace(texts, _remove_plain_links)
    texts = replace_matching(texts, r"\]\(|\]\[", _remove_other_links)
    return replace_matching(texts, r"\]:", lambda text: text.str.replace_all(_DEFINITION, ""))


def _remove_plain_links(text: pl.Expr) -> pl.Expr:
    """Remove targets that can be nothing else: addresses, paths, file names."""
    return text.str.replace_all(
        rf"\[([^\[\]]+)\]\((?:(?:https?:|mailto:|\.{{0,2}}/|#){_TARGET}|{_FILE})\)", "$1"
    )


def _remove_other_links(text: pl.Expr) -> pl.Expr:
    """Remove other targets; brackets right behind a letter or a digit are indices."""
    link = rf"(^|[^A-Za-z0-9_)\]])\[([^\[\]]+)\](?:\({_TARGET}\)|\[[^\[\]\n]{{0,60}}\])"
    return text.str.replace_all(link, "$1$2")


def _remove_line_marks(text: pl.Expr) -> pl.Expr:
    """Remove Markdown's marks of headings, fences, rules and empty quotes at the beginnings of lines."""
    marks = r"(?m)^[ \t]*(?:#{1,6}[ \t]+|```.*$|~~~.*$|(?:[-*_][ \t]*){3,}$|>[ \t]*$)"
    return text.str.replace_all(marks, "")


def _remove_quote_marks(text: pl.Expr) -> pl.Expr:
    """Remove the `>` of quotes; before a number or an equals sign it compares, and three are Python's prompt."""
    return text.str.replace_all(r"(?m)^[ \t]*>[ \t]*(?:>[ \t]*)?([^>=\s\d]|\d+(?:[.)]\s|[、）]))", "$1")


def _remove_stars(text: pl.Expr) -> pl.Expr:
    """Remove Markdown's marks of emphasis, which never stand within a word or a number."""
    strong = r"(^|[^A-Za-z0-9_)\]*])\*\*([^*\s](?:[^*\n]*[^*\s(,=])?)\*\*"
    text = text.str.replace_all(strong, "$1$2")
    # Between Chinese, blanks inside the marks are common, and marks without their other half.
    text = text.str.replace_all(r"\*\*([^*\n]+)\*\*([\p{Han}，。；：、！？）])", "$1$2")
    return text.str.replace_all(r"\*\*(\p{Han})|([\p{Han}。！？：])\*\*", "$1$2")


def _remove_underscores(text: pl.Expr) -> pl.Expr:
    """Remove the other marks of emphasis; a single word between two underscores is a name (`__init__`)."""
    strong = r"(^|[^A-Za-z0-9_])__([^_\s][^_\n]*[^\w\n][^_\n]*[^_\s]|\p{Han}[^_\n]*)__"
    return text.str.replace_all(strong, "$1$2")


def _remove_roles(text: pl.Expr) -> pl.Expr:
    """Remove roles before backticks, and the tabs of d2l."""
    text = text.str.replace_all(r":(?:begin|end)_tab:(?:`[^`]*`)?", "")
    return text.str.replace_all(rf":(?:{_ROLES}):(`)", "$1")
