"""Commands that make data: what is typed reaches the function that does the work."""

from pathlib import Path
from types import SimpleNamespace

from conan_embed.documents.build import PairSettings
from conan_embed.training.false_negatives import FalseNegatives


def test_pairs(calls_of):
    result = SimpleNamespace(lines=lambda: ["3 documents"])
    typed = [
        "pairs",
        "a",
        "b",
        "-o",
        "out",
        "--max-tokens",
        "99",
        "--overlap",
        "5",
        "--hold-out",
        "0.2",
        "--seed",
        "4",
    ]
    (sources, output, settings), named = calls_of(
        "conan_embed.documents.build.build_pairs", result, *typed, "--workers", "2", "--no-resume"
    )
    assert (sources, output, named) == (["a", "b"], Path("out"), {"resume": False})
    assert settings == PairSettings(None, max_tokens=99, overlap=5, hold_out=0.2, seed=4, workers=2)


def test_filter(calls_of, tmp_path, monkeypatch):
    monkeypatch.setattr("conan_embed.reporting.page.report", lambda folders: folders[0] / "report.html")
    (tmp_path / "raw.yaml").write_text("sources: [{path: a.jsonl}]")
    (recipe, output), named = calls_of(
        "conan_embed.filtering.pipeline.filter_pairs", None,
        *("filter", tmp_path / "raw.yaml", "language.same=true", "-o", tmp_path / "clean", "--runner", "ray"),
    )  # fmt: skip
    assert recipe.language.same and output == tmp_path / "clean"
    assert named == {"runner": "ray", "resume": True}


def test_false_negatives(calls_of):
    call = calls_of(
        "conan_embed.training.false_negatives.find_false_negatives",
        FalseNegatives(Path("f"), 1, 2, {}),
        *(
            "false-negatives",
            "run",
            "--pairs",
            "7",
            "--margin",
            "0.1",
            "--judge",
            "http://a/v1",
            "--llm",
            "m",
        ),
        *("--write-data", "data"),
    )
    judge = {"judge": "http://a/v1", "llm": "m", "write_data": Path("data")}
    assert call == ((Path("run"), None), {"limit": 7, "margin": 0.1, **judge})
