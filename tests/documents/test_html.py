"""Pages to documents: what a reader sees is there once, what steers the browser is not."""

import random
from collections import Counter
from html.parser import HTMLParser

import pytest

from conan_embed.documents.html import html_text, parse_html
from tests.support.documents import outline

WORDS = " ".join(f"word{number}" for number in range(40))


def blocks(text: str) -> list[tuple[str, str]]:
    return [block for _, _, part in outline(parse_html("page", text)) for block in part]


# ----------------------------------------------------------------------------------------- nothing lost, nothing twice


def random_page(rng: random.Random, depth: int) -> str:
    """Return nested tags around words that are all different from each other."""

    def word() -> str:
        return f"{rng.choice(['w', '字'])}{rng.getrandbits(48):x} "

    def inside(tag: str, depth: int) -> str:
        children = {"ul": ["li"], "ol": ["li"], "table": ["tr"], "tr": ["td"] * 2}.get(tag, MIXED)
        if tag in ("p", "h2", "pre", "b", "script") or depth == 0:
            children = ["b"] if tag not in ("b", "script") else []
        text = "" if tag in ("ul", "ol", "table", "tr") else word()
        return text + "".join(make(rng.choice(children), depth) for _ in range(2 * bool(children)))

    def make(tag: str, depth: int) -> str:
        end = word() if tag in ("div", "li", "td") else ""  # text behind the last child
        return f"<{tag}>{inside(tag, depth - 1 if depth else 0)}{end}</{tag}>"

    return f"<body>{''.join(make(rng.choice(MIXED), depth) for _ in range(4))}"


MIXED = ["div", "section", "p", "ul", "ol", "pre", "blockquote", "table", "b", "nav", "script", "aside", "h2"]


class VisibleWords(HTMLParser):
    """The slow reference: the words outside of menus, scripts and asides; headings are not among the blocks."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: Counter[str] = Counter()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"nav", "script", "aside", "h2"} & set(self.open):
            self.words.update(data.split())


@pytest.mark.parametrize("seed", range(60))
def test_each_visible_word_of_a_page_is_in_one_block(seed: int) -> None:
    page = random_page(random.Random(seed), 3)
    words = (word for _, text in blocks(page) for word in text.split())
    found = Counter(word for word in words if word.strip("0123456789.-|"))
    assert found == VisibleWords(page).words


# ------------------------------------------------------------------------------------------------ what a page is about


@pytest.mark.parametrize(
    "page", ["", " \n", "<html></html>", "<!-- nothing -->", "<script>var x = 1</script>"]
)
def test_a_page_without_text_has_no_sections(page: str) -> None:
    document = parse_html("page", page)
    assert (document.title, document.sections) == ("", ())


def test_the_title_is_the_first_heading_and_else_that_of_the_head() -> None:
    head = "<head><title>Site |\n Page</title></head>"
    assert parse_html("a", f"{head}<h1>Page</h1>text").title == "Page"
    assert parse_html("a", f"{head}<p>text</p>").title == "Site | Page"
    assert parse_html("a", "<body><svg><title>Logo</title></svg><p>text</p>").title == ""


def test_the_summary_is_the_description_however_its_name_is_written() -> None:
    for name in ("description", "Description"):
        assert parse_html("a", f'<meta name="{name}" content=" All of\n it. "><p>x').summary == "All of it."
    assert parse_html("a", "<meta name=description><p>x").summary == ""


@pytest.mark.parametrize(
    "around", ["nav", "header", "footer", "aside", "form", "noscript", "button", "textarea"]
)
def test_what_stands_around_a_page_is_left_out(around: str) -> None:
    page = f"<body><main><p>{WORDS}</p><{around}>menu</{around}></main><{around}>menu</{around}>"
    assert blocks(page) == [("text", WORDS)]


@pytest.mark.parametrize("around", ["header", "form"])
def test_a_header_or_form_with_the_title_in_it_is_part_of_the_page(around: str) -> None:
    document = parse_html("a", f"<body><{around}><h1>Title</h1><p>Some text.</p></{around}><p>More.</p>")
    assert document.title == "Title"
    assert outline(document) == [((), "section", [("text", "Some text."), ("text", "More.")])]


def test_the_main_part_is_taken_alone_unless_it_is_a_teaser_or_one_of_several() -> None:
    long, other = f"<p>{WORDS}</p>", f"<p>{WORDS.upper()}</p>"
    assert blocks(f"<body><p>ad</p><main>{long}</main>") == [("text", WORDS)]
    assert len(blocks(f"<body><main><p>teaser</p></main>{long}")) == 2
    assert len(blocks(f"<body><article>{long}</article><article>{other}</article>")) == 2
    assert len(blocks(f"<body><article>{long}<article>{other}</article></article>")) == 2
    assert len(blocks(f"<body><article>{long}</article><article><p>see also</p></article>")) == 1


# ----------------------------------------------------------------------------------------------------------- headings


@pytest.mark.parametrize("link", ["#", "¶", "🔗", "\u200b", " # "])
def test_a_heading_loses_the_mark_of_its_link_and_nothing_else(link: str) -> None:
    page = f"<h1>The language C#<a href=#c>{link}</a></h1><h2><a href=x>用 F# 编程</a></h2><p>text</p>"
    document = parse_html("a", page)
    assert (document.title, document.sections[0].headings) == ("The language C#", ("用 F# 编程",))


def test_headings_are_found_in_their_lines_whatever_is_written_before_them() -> None:
    page = (
        "<aside><h3>On this page</h3>Install Use &amp; run</aside>\n<h1>Guide</h1>\n<h2>Install</h2><p>a</p>\n\n"
        "<h2>Use &amp; <b>run</b></h2><p>b</p>\n<h2>Install</h2><p>c</p>"
    )
    assert [(section.headings[-1], section.line) for section in parse_html("a", page, 10).sections] == [
        ("Install", 12),
        ("Use & run", 14),
        ("Install", 15),
    ]


# ------------------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<p>one<p>two", [("text", "one"), ("text", "two")]),
        ("one<hr>two", [("text", "one"), ("text", "two")]),
        ("<p>中文<b>加粗</b>。<br>第二\n 行&nbsp;&lt;x&gt;</p>", [("text", "中文加粗。\n第二 行 <x>")]),
        ("<pre>\n  if x:\n\ty <b>= 1</b>\n</pre>", [("code", "  if x:\n\ty = 1")]),
        ("<pre><code><span>a<br></span><span> b<br></span></code></pre>", [("code", "a\n b")]),
        ("<pre><div>a</div><div> b</div></pre>", [("code", "a\n b")]),
        ("<ol start=3><li>c<li>d</ol>", [("list", "3. c\n4. d")]),
        ("<ol start=x><li>a</ol>", [("list", "1. a")]),
        ("<ul><li>a</li><ul><li>b</li></ul><li>c</li></ul>", [("list", "- a\n  - b\n- c")]),
        ("<ul><li><p>a</p><p>b</p></li><li></li></ul>", [("list", "- a\n  b\n-")]),
        ("<ul>Fruit:<li>pear</ul>", [("list", "Fruit:\n- pear")]),
        ("<table><tr><td>a</table>", [("text", "a")]),
        (
            "<table><caption>Sizes</caption><thead><tr><th>n<th>b</thead><tr><td>1<td>2\n3<tr><td><td></table>",
            [("text", "Sizes"), ("table", "n | b\n1 | 2 3")],
        ),
        (
            "<table><tr><td>a<td><table><tr><td>x<td>y</table><tr><td>b<td>c</table>",
            [("table", "a | x y\nb | c")],
        ),
    ],
)
def test_blocks_read_as_they_are_shown(page: str, expected: list[tuple[str, str]]) -> None:
    assert blocks(page) == expected


def test_a_list_or_table_around_headings_is_no_block() -> None:
    document = parse_html(
        "a", "<h1>T</h1><table><tr><td><h2>A</h2>text<td><ul><li><h2>B</h2>more</ul></table>"
    )
    assert outline(document) == [
        (("A",), "section", [("text", "text")]),
        (("B",), "section", [("text", "more")]),
    ]


def test_terms_with_their_definitions_are_sections_also_inside_of_each_other() -> None:
    page = """<h1>API</h1><dl>
      <div><dt>class <b>Log</b><a class="headerlink" href="#log">¶</a></dt><dd><p>Writes lines.</p>
        <dl><dt>write(text)</dt><dt>write(text, level)</dt><dd>Writes one.</dd><dt>close()</dt><dd></dd></dl>
      </dd></div>
      <dt>open</dt><dd>Opens.</dd><dd>Or fails.</dd></dl>"""
    assert outline(parse_html("a", page)) == [
        (("class Log",), "definition", [("text", "Writes lines.")]),
        (("class Log", "write(text), write(text, level)"), "definition", [("text", "Writes one.")]),
        (("open",), "definition", [("text", "Opens.")]),
        (("open",), "definition", [("text", "Or fails.")]),
    ]


# --------------------------------------------------------------------------------------------- HTML in other formats


@pytest.mark.parametrize(
    ("piece", "text"),
    [
        ("<p>one</p><p>two</p>", "one\ntwo"),
        ("<td>a</td>\n\n\n<td>b</td>", "a\nb"),
        ("a<BR/>b <b>c</b>d", "a\nb cd"),
        ("Q&amp;A &lt;b&gt; &#20013;", "Q&A <b> 中"),
        ("x < y and y > z", "x < y and y > z"),
        ("<!-- a\n <p>b</p> -->c<script>if (a < b) x()</script><style>p {}</style>", "c"),
        ("<img src='x'><br>", ""),
        ("", ""),
    ],
)
def test_a_piece_of_html_keeps_its_visible_text(piece: str, text: str) -> None:
    assert html_text(piece) == text
