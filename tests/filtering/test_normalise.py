import ftfy
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.filtering import normalise as code
from conan_embed.filtering.normalise import Normaliser, normalise_texts
from conan_embed.filtering.recipe import Normalise


def clean(text: str, **setting: object) -> str:
    return normalise_texts(pl.Series([text]), Normalise(**setting))[0]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Ａｂｃ１２３　ﬁ", "Abc123 fi"),
        ("你好，世界！（真的？）；：…～", "你好，世界！（真的？）；：…～"),
        ("a\u200bb\ufeffc\x00d\x07", "abcd"),
        ("  a \t b  \r\n\r\n\r\n\r\n c ", "a b\n\nc"),
        ("<p>第一段</p><p><strong>第二段</strong></p>", "第一段\n\n第二段"),
        ("a &lt;b&gt; &amp; c&nbsp;d", "a <b> & c d"),
        ("if a < b and c > d", "if a < b and c > d"),
        ("用 `<input>` 标签", "用 `<input>` 标签"),
        ("<script>var x = 1;</script>正文<!-- 注释 -->", "正文"),
        ("![图](a.png)看[这里](https://x.cn/a_(b))和[那里][3]。", "看这里和那里。"),
        ("## 标题\n> 引用\n```python\nprint(1)\n```\n**粗体**", "标题\n引用\n\nprint(1)\n\n粗体"),
        (":numref:`图1` 和 **x**", "`图1` 和 x"),
        ("ä¸\xadæ–‡", "中文"),
        ("itâ€™s", "it’s"),
        ("café", "café"),
        ("[mw_shl_code=java,true]int x;[/mw_shl_code][B]粗[/b]", "int x;粗"),
        ("看---------\n。。。。。。", "看---\n。。。"),
        ("[哈哈] a[0] = b[1]", "[哈哈] a[0] = b[1]"),
    ],
)
def test_normalise(raw, expected):
    assert clean(raw) == expected


def test_parts_can_be_left_out():
    assert clean("<p>a</p>", markup=False) == "<p>a</p>"
    assert clean("itâ€™s", mojibake=False, form="NFC") == "itâ€™s"
    assert clean("①，", form="NFC") == "①，"


@pytest.mark.parametrize("text", ["<p>你好，世界</p> Ａ", "[a](b) **c** ```\nd\n```", "x &amp;lt; y"])
def test_normalising_again_changes_little(text):
    once = clean(text)
    assert clean(once, markup=False) == once


def test_pairs_keep_their_order_and_missing_texts_become_empty():
    texts = {"query": ["Ａ", None, "Ａ", "Ａ"], "positive": ["<p>x</p>", "y", None, "z"]}
    pairs = pl.DataFrame(
        {"id": pl.Series([3, 1, 2, 4], dtype=pl.UInt64), **texts, "category": "c", "source": "s"}
    )
    outcome = Normaliser(Normalise())(pairs)
    assert outcome.kept.rows() == [(3, "A", "x", "c", "s"), (4, "A", "z", "c", "s")]
    assert outcome.dropped.select("id", "query", "positive", "dropped_by").rows() == [
        (1, "", "y", "empty"),
        (2, "A", "", "empty"),
    ]
    assert Normaliser(Normalise(enabled=False))(pairs).kept["query"].to_list() == ["Ａ", "Ａ"]


def slow(text: pl.Expr, setting: Normalise) -> pl.Expr:
    """Every replacement on every text with mark-up (or mojibake), one after the other, whether or not it can match."""
    if setting.mojibake:
        repaired = text.map_elements(ftfy.fix_encoding, return_dtype=pl.String)
        text = pl.when(text.str.contains(code._MOJIBAKE)).then(repaired).otherwise(text)
    if setting.markup:
        html, forum = code._HTML, code._FORUM
        marked = text.str.contains(code._MARKUP)
        bare = text.str.replace_all(r"`<(/?[\w-]+[^`<>\n]{0,80})>`", "`\ue010$1\ue011`")
        for pattern, new in (
            (r"(?is)<(script|style)\b.*?</(script|style)\s*>|<!--.*?-->", " "),
            (r"(?i)<(?:/?p|br|/?div|/?li|/?tr|/?h[1-6])(?:\s[^<>]*)?/?>", "\n"),
            (rf"(?i)</?(?:{html})(?:\s[^<>]*)?/?>", " "),
        ):
            bare = bare.str.replace_all(pattern, new)
        bare = bare.str.replace_many(
            [*code._ENTITIES, "\ue010", "\ue011"], [*code._ENTITIES.values(), "<", ">"]
        )
        for pattern, new in (
            (rf"(?i)\[/?(?:{forum})(?:=[^\]\n]{{0,80}})?\]", ""),
            (r"!\[[^\]]*\](?:\([^()\s]*(?:\s+\"[^\"]*\")?\)|\[[^\]]*\])", " "),
            (r"\[([^\[\]]+)\](?:\((?:[^()]|\([^()]*\))*\)|\[[^\[\]\n]{0,60}\])", "$1"),
            (r"(?m)^\s*\[[^\[\]\n]{1,60}\]:\s*\S+.*$", ""),
            (r"(?m)^[ \t]*(?:#{1,6}[ \t]+|>[ \t]?|```.*$|~~~.*$|(?:[-*_][ \t]*){3,}$)", ""),
            (r"\*\*([^*\n]+)\*\*|__([^_\n]+)__", "$1$2"),
            (r":(?:begin|end)_tab:(?:`[^`]*`)?", ""),
            (r"\*\*|:(?:numref|label|eqref|cite|ref|doc|term|func|class|meth|mod):", ""),
        ):
            bare = bare.str.replace_all(pattern, new)
        text = pl.when(marked).then(bare).otherwise(text)
    text = text.str.replace_all(r"[\p{Co}\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u00ad]", "")
    text = text.str.replace_many(list(code._CHINESE_PUNCTUATION), code._HIDDEN)
    text = text.str.normalize(setting.form)
    text = text.str.replace_many(code._HIDDEN, list(code._CHINESE_PUNCTUATION))
    text = text.str.replace_all(r"\r\n?|[\u2028\u2029]", "\n").str.replace_all(r"[^\P{Cc}\n\t]", "")
    text = text.str.replace_all(code._DRAWN_OUT, "$a$b$c$d$e$f$g")
    text = text.str.replace_all(r" *[\p{Zs}\t&&[^ ]][\p{Zs}\t]*|  +", " ")
    text = text.str.replace_all(r" ?\n ?", "\n").str.replace_all(r"\n{3,}", "\n\n")
    return text.str.strip_chars()


# What shortcuts look for, in pieces that make and unmake each other; and characters of all planes.
PIECES = st.sampled_from(
    [
        *" \t\n\r\x0b\x0c\x85\xa0\u1680\u2003\u2028\u3000\u200b\x00\x7f\ufeff\ue000\ue010\ue011",
        *'aé中ｱﾞは\u3099\u0301한ﬁ①，！。…～😀<>&*#[]()`~_-:=!/"|.─',
        *(
            "  ",
            "\n\n",
            " \n",
            "----",
            "====",
            "____",
            "....",
            "。。。。",
            "！！！！",
            "```",
            "~~~",
            "**",
            "__",
            "# ",
        ),
        *(
            "<p>",
            "</p>",
            "<br/>",
            "<b class=x>",
            "<script>",
            "</script>",
            "<!--",
            "-->",
            "`<a>`",
            "`<input x>`",
        ),
        *(
            "&lt;",
            "&amp;",
            "&nbsp;",
            "&copy",
            "&#39;",
            "&am",
            "[b]",
            "[/url]",
            "[x](y)",
            '![x](y "z")',
            "[x][1]",
        ),
        *("[1]: http", ":numref:", ":ref:`x`", ":begin_tab:`y`", ":end_tab:", ":doc", "ä¸\xad", "â€™", "Ã©"),
    ]
)
TEXTS = st.lists(PIECES | st.characters(codec="utf-8"), max_size=14).map("".join)
SETTINGS = [
    Normalise(),
    Normalise(form="NFC"),
    Normalise(mojibake=False),
    Normalise(markup=False),
]


@pytest.mark.parametrize("setting", SETTINGS)
@given(st.lists(TEXTS, min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_shortcuts_change_nothing(setting, texts):
    raw = pl.Series("text", texts, dtype=pl.String)
    expected = raw.to_frame().select(slow(pl.col("text"), setting))["text"]
    assert normalise_texts(raw, setting).to_list() == expected.to_list()
