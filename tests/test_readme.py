"""The README's Python example runs as written, but for the model, which is one that a package ships."""

import json
import re
from pathlib import Path

import pytest

from tests.support.docs import FAQ, MODEL, hub_with_bundled_model

README = Path(__file__).parent.parent / "README.md"
PLACES = ("in the shop", "in the app", "on the phone", "at the office", "abroad", "at night")


@pytest.mark.slow
def test_the_example_trains_searches_and_reports(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(
        r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert example.count("intfloat/multilingual-e5-small") == 1
    rows = [
        {"title": f"{title} ({place})", "answer": f"{answer} ({place})"}
        for title, answer in FAQ
        for place in PLACES
    ]
    (tmp_path / "faq.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    with hub_with_bundled_model(tmp_path):
        exec(example.replace("intfloat/multilingual-e5-small", MODEL), {})
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] in {row["answer"] for row in rows}
    assert "learning_rate" in printed
    assert printed.splitlines()[-1] == "runs/faq/report.html"
    assert (tmp_path / "runs/faq/report.html").exists()
