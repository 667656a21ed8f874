import griffe
import pytest

from conan_embed.documents.docstrings import MAX_CHARACTERS, Documentation, read_docstring


def read(docstring: str) -> Documentation:
    return read_docstring(griffe.Docstring(docstring))


def test_summary_is_the_first_sentence_and_the_rest_lacks_it():
    parts = read("""
        Sort the *rows* of a table, e.g. by :func:`~table.keys.date`, so that
        ``late`` ones come last. Ties keep their order.

        Parameters
        ----------
        table : `Table`
            What to sort; see [the guide](https://example.org/guide).

        Examples
        --------
        >>> sort(table)
        Table(3)
    """)
    assert parts.summary == "Sort the rows of a table, e.g. by date, so that late ones come last."
    assert parts.rest == "Ties keep their order.\nParameters:\ntable: What to sort; see the guide."


@pytest.mark.parametrize(
    ("docstring", "summary", "rest"),
    [
        (
            "Open a file.\n\n:param str path: where it is\n:rtype: File\n:raises OSError: it is not there",
            "Open a file.",
            "Parameters:\npath: where it is\nRaises:\nOSError: it is not there",
        ),
        (
            "Open a file.\n\nArgs:\n    path: where\n\n.. versionadded:: 3\n\n.. note:: Close it.",
            "Open a file.",
            "Parameters:\npath: where\nnote: Close it.",
        ),
        (
            "Join the parts\nof a path\n\n.. code-block:: python\n\n    join(a, b)\n\nSafe.",
            "Join the parts of a path",
            "Safe.",
        ),
        (
            "Pass *args and **kwargs (a * b) on to :class:`.Queue`.",
            "Pass *args and **kwargs (a * b) on to Queue.",
            "",
        ),
        (
            "Make `.Text`, [`Name`] and [names][all-names], but index a[0][1].",
            "Make Text, Name and names, but index a[0][1].",
            "",
        ),
        ("Convert units.\n\n```python\nconvert(3)\n```\n\nFast.", "Convert units.", "Fast."),
    ],
)
def test_markup_of_many_styles(docstring, summary, rest):
    assert read(docstring) == Documentation(summary, rest)


def test_a_chapter_is_cut_at_a_line():
    text = read("Summary.\n\n" + "word\n" * 10_000).rest
    assert MAX_CHARACTERS - 20 < len(text) < MAX_CHARACTERS
    assert text.endswith("word")
