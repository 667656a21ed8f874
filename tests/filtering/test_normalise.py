import polars as pl
import pytest

from conan_embed.filtering.normalise import normalise, normalise_texts
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
    assert clean("你好，", keep_chinese_punctuation=False) == "你好,"
    assert clean("①，", form="NFC") == "①，"


@pytest.mark.parametrize("text", ["<p>你好，世界</p> Ａ", "[a](b) **c** ```\nd\n```", "x &amp;lt; y"])
def test_normalising_again_changes_little(text):
    once = clean(text)
    assert clean(once, markup=False) == once


def test_pairs_keep_their_order_and_missing_texts_become_empty():
    pairs = pl.DataFrame({"id": [3, 1, 2], "query": ["Ａ", None, "Ａ"], "positive": ["<p>x</p>", "y", None]})
    found = normalise(pairs, Normalise())
    assert found.rows() == [(3, "A", "x"), (1, "", "y"), (2, "A", "")]
    assert normalise(pairs, Normalise(enabled=False))["query"].to_list() == ["Ａ", "", "Ａ"]
