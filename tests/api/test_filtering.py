"""Filtering in Python."""

from pathlib import Path

import conan_embed as ce


def test_filter_keeps_clean_pairs_and_writes_a_report(faq: Path) -> None:
    summary = ce.filter_pairs(ce.FilterRecipe(sources=[{"path": str(faq)}]), "clean")  # type: ignore[arg-type]
    assert (summary.read, summary.kept) == (12, 12)
    assert Path("clean/report.html").exists()
