"""reStructuredText: read for its text, and never another file."""

from pathlib import Path

from conan_embed.documents.rst import parse_rst


def test_sphinx_roles_and_directives_are_read_for_their_text() -> None:
    document = parse_rst(
        "a",
        "Title\n=====\n\nSee :func:`~os.path.join` and :ref:`the page <target>`.\n\n"
        ".. versionadded:: 3.1\n   It can now fly.\n\n.. toctree::\n   :maxdepth: 2\n\n   other\n",
    )
    text = "\n".join(block.text for section in document.sections for block in section.blocks)
    assert "See join and the page." in text
    assert "It can now fly." in text
    assert "other" not in text
    assert "Unknown" not in text


def test_rst_never_reads_other_files(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret words")
    secret = tmp_path / "secret.txt"
    source = f"Title\n=====\n\n.. include:: {secret}\n\n.. raw:: html\n   :file: {secret}\n\nText.\n"
    document = parse_rst(str(tmp_path / "a.rst"), source)
    assert "secret" not in "".join(block.text for section in document.sections for block in section.blocks)
