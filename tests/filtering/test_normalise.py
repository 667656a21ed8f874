import ftfy
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.filtering import markup
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


@pytest.mark.parametrize(
    "text",
    [
        "if a<b and c>d then what",
        "prove that s <p or q> r",
        "How to center a <div> in a <table>",
        "What is a <br> tag, and what the <p> element?",
        "vector<int> a; map<string, vector<p>> b",
        "if(a<i&&b>c){ x>y }",
        "when is x <a href or i> y",
        "x[i][j] = y[i] + b[u] and handlers[name](event)",
        "Optional[list] and dict[table]",
        "2**3 and 4**5 = x**2 + y**2",
        "f(**a, **b), g(**a,**b) and h(*args, **kwargs)",
        "What is __init__ in __main__?",
        "它> 5 个\n> 5 apples\n>= 3\n>>> print(1)",
        "ratio:class:label",
        "为什么 <b> 和 <strong> 不同",
        "“<br>” 标签怎么用",
    ],
)
def test_what_only_looks_like_markup_stays(text):
    assert clean(text) == text


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("line one<br>line two", "line one\nline two"),
        ("<div class='x'>hi <b and c> there</div>", "hi <b and c> there"),
        ("<img src=a.png> ok", "ok"),
        ("<ul>\n<li>one</li>\n<li>two</li></ul>", "one\n\ntwo"),
        ("a < b</p>", "a < b"),
        ("<p>How to center a &lt;div&gt;?</p>", "How to center a <div>?"),
        ("The <br> tag breaks a line.<br/>Like this.", "The <br> tag breaks a line.\nLike this."),
        ("[b]粗[/b] a[i] [url=http://x.cn]x[/url]", "粗 a[i] x"),
        ("see [here](page.html)[there](b.md)[1](https://x.y)", "see herethere1"),
        ("**粗体** and **bold text**. **注意：你好", "粗体 and bold text. 注意：你好"),
        ("__bold words__ 和 __中文__", "bold words 和 中文"),
        ("> quoted\n> > nested\n>\n> 引用\n> - a\n>  1. b", "quoted\nnested\n\n引用\n- a\n1. b"),
        ("将 **BQ Aquaris **，换成 **Android**。", "将 BQ Aquaris ，换成 Android。"),
    ],
)
def test_real_markup_goes(raw, expected):
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
        bare = markup._hide_named_tags(text)
        bare = pl.when(markup._is_html(bare)).then(markup._strip_tags(bare)).otherwise(bare)
        for step in (
            markup._unescape,
            markup._remove_bbcode,
            lambda text: text.str.replace_all(markup._IMAGE, " "),
            markup._remove_plain_links,
            markup._remove_other_links,
            lambda text: text.str.replace_all(markup._DEFINITION, ""),
            markup._remove_line_marks,
            markup._remove_quote_marks,
            markup._remove_stars,
            markup._remove_underscores,
            markup._remove_roles,
        ):
            bare = step(bare)
        text = pl.when(text.str.contains(markup.ANY_MARKUP)).then(bare).otherwise(text)
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
@given(st.lists(TEXTS, min_size=60, max_size=160))
@settings(max_examples=5, deadline=None)  # few, of many texts: each compiles all patterns anew
def test_shortcuts_change_nothing(setting, texts):
    raw = pl.Series("text", texts, dtype=pl.String)
    expected = raw.to_frame().select(slow(pl.col("text"), setting))["text"]
    assert normalise_texts(raw, setting).to_list() == expected.to_list()
