"""MDX: what a reader of the page sees is read, what the build needs is not."""

from hypothesis import given
from hypothesis import strategies as st

from conan_embed.documents.markdown import parse_markdown
from conan_embed.documents.mdx import is_mdx, mdx_to_markdown

PAGE = """\
---
title: Install
---
import Tabs from '@theme/Tabs';
import {
  Card,
} from "../components";

export const version = {
  major: 3,
};

# Install {/*install*/}

<Intro>

You need version {version.major} of the program{' '}and `Map<String, {x}>`.

</Intro>

<Tabs
  defaultValue="npm"
  values={[{label: 'npm > 7', value: 'npm'}]}>
  <TabItem value="npm" label="With npm">

    Indented prose with a <Link to="/x">link</Link> in it.

    ```jsx {1,3}
    import React from 'react';
    <App render={() => <b>hi</b>} />
    ```

  </TabItem>
</Tabs>

## Formulas

The loss is $\\frac{a}{b}$, a price of 5 < 6 { is open.
"""


def test_components_go_and_their_children_stay() -> None:
    document = parse_markdown("page.mdx", PAGE)
    assert document.title == "Install"
    texts = {block.text: block.kind for section in document.sections for block in section.blocks}
    assert "You need version  of the program and Map<String, {x}>." in texts
    assert texts["Indented prose with a link in it."] == "text"
    [code] = [text for text, kind in texts.items() if kind == "code"]
    assert "<App render={() => <b>hi</b>} />" in code and "import React" in code
    assert "The loss is $\\frac{a}{b}$, a price of 5 < 6 { is open." in texts
    everything = "\n".join(texts)
    assert "With npm" in everything
    for gone in ("theme", "major", "TabItem", "defaultValue", "install*"):
        assert gone not in everything


def test_lines_are_those_of_the_file() -> None:
    document = parse_markdown("page.mdx", PAGE)
    [section] = [section for section in document.sections if section.headings == ("Formulas",)]
    assert PAGE.split("\n")[section.line - 1] == "## Formulas"
    assert mdx_to_markdown(PAGE).count("\n") == PAGE.count("\n")


def test_markdown_with_components_is_known_and_other_markdown_is_left_alone() -> None:
    assert is_mdx("# A\n\n<Intro>\n\nText\n\n</Intro>\n")
    assert not is_mdx("A `</Intro>` in code, {{ a template }}, List<String>\n\n```\n</Intro>\n```\n")
    plain = parse_markdown("a.md", "# A\n\nimport the data, {{ then }} train\n")
    assert plain.sections[0].blocks[0].text == "import the data, {{ then }} train"


@given(st.text(alphabet="<>{}/AB`\"'=$* \n", max_size=80))
def test_no_text_is_too_broken(text: str) -> None:
    assert mdx_to_markdown(text).count("\n") == text.count("\n")
    parse_markdown("a.mdx", text)
