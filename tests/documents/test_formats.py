"""Every format becomes the same thing: a title, and sections of readable blocks under their headings."""

import pytest

from conan_embed.documents.document import Document
from conan_embed.documents.html import parse_html
from conan_embed.documents.markdown import parse_markdown
from conan_embed.documents.rst import parse_rst
from tests.support.documents import outline

MARKDOWN = """\
---
title: The guide
description: All about widgets.
---
{{< notice >}}

Widgets are **small** and
[round](https://example.org).

## Install it

```python
x = 1

y = 2
```

| name | size |
|------|------|
| a    | 1    |

### On Linux

- first
- second
  - nested

Term
: What it means.
"""

HTML = """<html><head><title>Site | Guide</title><meta name="description" content="All about widgets.">
<script>var x = "no text";</script></head><body>
<nav><ul><li>Home</li><li>About</li></ul></nav>
<main><h1>The guide</h1><p>Widgets are <b>small</b> and <a href="x">round</a>.</p>
<h2>Install it</h2><pre>x = 1

y = 2</pre>
<table><tr><th>name</th><th>size</th></tr><tr><td>a</td><td>1</td></tr></table>
<div><h3>On Linux</h3><ul><li>first</li><li>second<ul><li>nested</li></ul></li></ul>
<dl><dt>Term</dt><dd>What it means.</dd></dl></div></main>
<footer>Copyright</footer></body></html>"""

RST = """\
The guide
=========

Widgets are **small** and `round <https://example.org>`_.

Install it
----------

::

    x = 1

    y = 2

====  ====
name  size
====  ====
a     1
====  ====

On Linux
~~~~~~~~

- first
- second

  - nested

Term
    What it means.
"""


@pytest.mark.parametrize(
    "document",
    [parse_markdown("guide", MARKDOWN), parse_html("guide", HTML), parse_rst("guide", RST)],
    ids=["markdown", "html", "rst"],
)
def test_the_same_document_in_three_formats_reads_the_same(document: Document) -> None:
    assert document.title == "The guide"
    sections = {headings: (kind, blocks) for headings, kind, blocks in outline(document)}
    assert sections[()] == ("section", [("text", "Widgets are small and round.")])
    assert sections["Install it",] == (
        "section",
        [("code", "x = 1\n\ny = 2"), ("table", "name | size\na | 1")],
    )
    assert sections["Install it", "On Linux"][0] == "section"
    assert sections["Install it", "On Linux"][1] == [("list", "- first\n- second\n  - nested")]
    assert sections["Install it", "On Linux", "Term"] == ("definition", [("text", "What it means.")])
    assert len(sections) == 4, "neither menu, footer, script nor front matter is text"


@pytest.mark.parametrize(
    ("parse", "text"), [(parse_markdown, MARKDOWN), (parse_rst, RST), (parse_html, HTML)]
)
def test_sections_know_the_line_of_their_heading(parse, text: str) -> None:
    lines = text.split("\n")
    for section in parse("guide", text, 1).sections:
        if section.headings and section.kind == "section":
            assert section.headings[-1] in lines[section.line - 1]


def test_front_matter_and_meta_tags_say_what_a_document_is_about() -> None:
    assert parse_markdown("a", MARKDOWN).summary == parse_html("a", HTML).summary == "All about widgets."
