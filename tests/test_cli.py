"""The command line as a person meets it: help that teaches, mistakes in one sentence, a run from end to end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conan_embed.cli import main
from conan_embed.files import read_json, read_json_lines


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "conan_embed", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(tmp_path, tiny_model):
    """A folder with a model, data and a recipe."""
    tiny_model("bert").save(tmp_path / "base")
    texts = ["Python file", "read lines", "deep model", "training data", "hard negative", "nice park"]
    rows = [{"query": f"{a} {b}?", "positive": [f"{a} {b}."]} for a in texts for b in texts]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    graded = [{"text_a": a, "text_b": b, "score": float(a == b)} for a in texts for b in texts]
    (tmp_path / "sts.jsonl").write_text("\n".join(map(json.dumps, graded)))
    (tmp_path / "eval/sts").mkdir(parents=True)
    (tmp_path / "eval/sts/Same.jsonl").write_text("\n".join(map(json.dumps, graded)))
    (tmp_path / "my.yaml").write_text(
        """
model: {base: base, widths: [16]}
data:
  retrieval: [{name: pairs, path: pairs.jsonl}]
  sts: [{name: graded, path: sts.jsonl}]
step: {queries: 4, num_negatives: 2, sts_pairs: 8}
mining: {depth: 8, offset: 2}
hard_negatives: {source: ranking, interval: 2}
training: {steps: 4, checkpoint_every: 2}
evaluation: {folder: eval, every: 2}
output: run
"""
    )
    return tmp_path


def test_train_evaluate_search_and_report(project):
    trained = command("train", "my.yaml", "optimizer.learning_rate=1e-3", folder=project)
    assert trained.returncode == 0, trained.stderr
    metrics = read_json_lines(project / "run/metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4]
    wanted = {"learning_rate", "loss", "loss/retrieval", "loss/sts", "score/positive", "score/negative"}
    assert wanted | {"tokens", "tokens_per_second", "gradient_norm"} <= metrics[0].keys()
    assert [line["step"] for line in read_json_lines(project / "run/evaluation.jsonl")] == [0, 2, 4]
    assert [line["step"] for line in read_json_lines(project / "run/negatives.jsonl")] == [2, 4]
    assert "learning_rate: 0.001" in (project / "run/recipe.yaml").read_text()
    assert list((project / "run/tensorboard").iterdir())
    page = (project / "run/report.html").read_text()
    assert "<html" in page and "hardest negatives" in page

    evaluated = command(
        "evaluate",
        "run/model",
        "eval",
        "--dims",
        "16,8",
        "--update-card",
        "-o",
        "scores.json",
        folder=project,
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert "Same" in evaluated.stdout
    assert set(read_json(project / "scores.json")["tasks"]["sts/Same"]["widths"]) == {"16", "8"}
    assert "| local sets | sts/Same |" in (project / "run/model/README.md").read_text()

    suspected = command("false-negatives", "run", "--margin", "2", "-o", "label.jsonl", folder=project)
    assert suspected.returncode == 0, suspected.stderr
    assert {line["label"] for line in read_json_lines(project / "label.jsonl")} == {""}

    (project / "passages.jsonl").write_text('{"text": "Python file"}\n{"text": "nice park"}\n')
    found = command(
        "search", "Python file", "--model", "run/model", "--corpus", "passages.jsonl", folder=project
    )
    assert found.returncode == 0, found.stderr
    assert "Python file" in found.stdout

    # The same command again has nothing left to do, and says where it stands.
    again = command("train", "my.yaml", "optimizer.learning_rate=1e-3", folder=project)
    assert again.returncode == 0
    assert "run is finished: all 4 steps are done" in again.stderr


def test_mined_rankings_are_read_by_train(project):
    assert command("mine", "my.yaml", "-o", "mined", folder=project).returncode == 0
    facts = read_json(project / "mined/mining.json")["datasets"]["pairs"]
    assert facts["queries"] == 36
    assert facts["examples"][0]["negatives"]
    trained = command("train", "my.yaml", "data.retrieval.0.ranking=mined", folder=project)
    assert trained.returncode == 0, trained.stderr


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
        (["evaluate", "base", "eval", "--dims", "8,wide"], ["'wide'", "256,512"]),
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


def test_help_names_every_command_and_is_quick_to_import(tmp_path):
    done = command("--help", folder=tmp_path)
    for name in (
        "train",
        "mine",
        "evaluate",
        "export",
        "search",
        "quickstart",
        "report",
        "false-negatives",
        "recipe",
        "filter",
        "ablate",
        "sweep",
    ):
        assert name in done.stdout
    heavy = "import sys, conan_embed.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", heavy], check=False).returncode == 0


def test_all_keys_of_a_recipe_are_listed_with_their_meaning(tmp_path):
    done = command("recipe", "--keys", folder=tmp_path)
    assert "learning_rate: 1.0e-05" in done.stdout
    assert "decay * S < S_0" in done.stdout
