"""A mistake is one sentence and exit status 2, whichever command it is made in."""

import sys

import pytest

from conan_embed.cli import main


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "mine.yaml"], ["mine.yaml", "no such recipe"]),
        (["train", "my.yaml", "step.querys=3"], ["step.querys", "unknown key", "'queries'"]),
        (["train", "my.yaml", "step.queries=many"], ["step.queries", "'many'", "integer"]),
        (["train", "my.yaml", "model.base=./nowhere"], ["./nowhere", "no such folder"]),
        (["train", "my.yaml", "model.widths=[99]"], ["model.widths", "99"]),
        (["train", "my.yaml", "model.max_length=4000"], ["model.max_length", "4000"]),
        (["train", "my.yaml", "step.num_negatives=30"], ["step.num_negatives", "30", "pairs"]),
        (["train", "my.yaml", "data.sts.0.path=gone.jsonl"], ["gone.jsonl"]),
        (["evaluate", "base", "eval", "--task", "sts/Sam"], ["sts/Sam", "sts/Same"]),
        (["evaluate", "base", "eval", "--width", "8,wide"], ["'wide'", "256,512"]),
        (["evaluate", "base", "eval", "--benchmark", "C-MTEB"], ["a folder and --benchmark", "one of them"]),
        (["evaluate", "base"], ["nothing to evaluate on", "--benchmark"]),
        (["false-negatives", "eval"], ["eval", "not a finished run", "recipe.yaml"]),
        (["report", "eval"], ["eval", "not a run directory", "filter.json"]),
        (["recipe", "smal"], ["smal", "'small'"]),
    ],
)
def test_a_mistake_is_one_sentence(project, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["conan-embed", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    written = capsys.readouterr().err
    assert "Traceback" not in written
    message = " ".join(written.split("error", 1)[1].split())
    for word in words:
        assert word in message
