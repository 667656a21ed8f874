"""Whole comparisons of a tiny model: what they leave, how they go on, and that how they run does not matter."""

import itertools
import json
import shutil

import pytest
import yaml
from tiny_models import make_tiny_model

import conan_embed.ablation.run as run_module
import conan_embed.training.loop as loop_module
from conan_embed.ablation.comparison import ablate, sweep
from conan_embed.errors import UserError
from conan_embed.files import read_json, read_json_lines

WORDS = ["Python file", "read lines", "deep model", "training data", "hard negative", "nice park"]
ARMS = ["base", "vanilla", "CBB", "DHNM", "CBB-+-DHNM"]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    make_tiny_model("bert").save(folder / "base")
    phrases = [f"{a} {b}" for a, b in itertools.permutations(WORDS, 2)]
    pairs = [{"query": f"{phrase}?", "positive": f"{phrase}."} for phrase in phrases[:12]]
    write(folder / "pairs.jsonl", pairs)
    graded = [
        {"text_a": a, "text_b": b, "score": i * 7 % 11}
        for i, (a, b) in enumerate(zip(phrases, phrases[7:], strict=False))
    ]
    write(folder / "sts.jsonl", graded[:12])
    write(folder / "eval/sts/Graded.jsonl", graded[12:])
    found = folder / "eval/retrieval/Found"
    write(found / "corpus.jsonl", [{"doc_id": f"d{i}", "text": text} for i, text in enumerate(phrases)])
    asked = list(enumerate(phrases[3:20]))  # the right one is another than the nearest
    write(found / "queries.jsonl", [{"query_id": f"q{i}", "text": f"{text}?"} for i, text in asked])
    write(found / "qrels.jsonl", [{"query_id": f"q{i}", "doc_id": f"d{i}", "score": 1} for i, _ in asked])
    recipe = {
        "model": {"base": str(folder / "base")},
        "data": {
            "retrieval": [{"name": "pairs", "path": str(folder / "pairs.jsonl")}],
            "sts": [{"name": "sts", "path": str(folder / "sts.jsonl")}],
        },
        "step": {"queries": 4, "negatives": 2, "sts_pairs": 4},
        "mining": {"depth": 10, "offset": 1, "precision": "float32"},
        "negatives": {"interval": 2, "decay": 0.1, "ceiling": 5.0, "when_used_up": "wrap"},
        "optimizer": {"learning_rate": 2e-3},
        "training": {"steps": 8, "checkpoint_every": 2, "precision": "float32"},
        "evaluation": {"folder": str(folder / "eval")},
        "tracking": {"tensorboard": False},
        "output": str(folder / "run"),
        "cache": str(folder / "cache"),
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def scores(output):
    return {
        str(path.relative_to(output)): read_json(path)["scores"]
        for path in sorted(output.glob("*/seed-*.json"))
    }


@pytest.fixture(scope="module")
def whole(project):
    """Table 4 with two seeds, interrupted once while its third arm trains, and its comparison."""
    output = project / "run-arms"
    with pytest.MonkeyPatch.context() as patch:
        original, count = loop_module.train_step, iter(range(1000))

        def stepping(*arguments, **settings):
            if next(count) == 19:  # vanilla takes 16 steps, and this is the fourth of CBB
                raise KeyboardInterrupt
            return original(*arguments, **settings)

        patch.setattr(loop_module, "train_step", stepping)
        with pytest.raises(KeyboardInterrupt):
            ablate(project / "recipe.yaml", seeds=[0, 1])
        assert [path.parent.name for path in sorted(output.glob("*/seed-0.json"))] == ["base", "vanilla"]
        assert (output / "CBB/seed-0/checkpoints/step-00000002").exists()
        patch.setattr(loop_module, "train_step", original)
        steps = []
        patch.setattr(
            loop_module,
            "train_step",
            lambda *found, **settings: (steps.append(found[1].plan.step), original(*found, **settings))[1],
        )
        comparison = ablate(project / "recipe.yaml", seeds=[0, 1])
        # The steps of the interrupted arm from its checkpoint on, all of the others, and of none twice.
        assert steps[:7] == [2, 3, 4, 5, 6, 7, 0]
        assert len(steps) == 6 + 16 + 8 + (16 + 8 + 16 + 8)
    return output, comparison


def test_all_arms_end_with_a_table_and_a_page(whole):
    output, comparison = whole
    expected = {f"{arm}/seed-{seed}.json" for arm in ARMS for seed in (0, 1)} - {"base/seed-1.json"}
    assert set(scores(output)) == expected
    cells = comparison["rows"]["average"]
    assert len(cells) == len(ARMS)
    assert (cells[0]["difference"], cells[0]["spread"]) == (0, None)
    assert all(
        len(cell["by_seed"]) == 2 and cell["low"] < cell["difference"] < cell["high"] for cell in cells[1:]
    )
    assert list(comparison["rows"]) == ["retrieval", "sts", "average", "retrieval/Found", "sts/Graded"]
    for name in ("table.md", "arms.html"):
        text = (output / name).read_text()
        assert "CBB + DHNM" in text and "retrieval/Found" in text
    assert read_json(output / "results.json")["seeds"] == [0, 1]
    assert not list(output.glob("*/*/checkpoints"))


def test_arms_see_the_same_queries_and_only_dynamic_ones_replace(whole):
    output, comparison = whole
    seen = {arm["name"]: arm["seen"] for arm in comparison["arms"]}
    assert [seen[name]["updates"] for name in seen] == [0, 16, 8, 16, 8]
    assert seen["CBB"]["queries"] == seen["CBB + DHNM"]["queries"] == 32
    assert seen["vanilla"]["queries"] == seen["DHNM"]["queries"]
    assert seen["vanilla"]["replaced"] == seen["CBB"]["replaced"] == 0
    assert seen["DHNM"]["replaced"] > 0 and seen["CBB + DHNM"]["replaced"] > 0
    # One mining for all, and before the first replacement arms of one seed that differ in it alone are one run.
    assert len(list(output.glob("mining-*"))) == 1
    first = [read_json_lines(output / arm / "seed-1/metrics.jsonl")[0]["loss"] for arm in ("CBB", ARMS[-1])]
    assert first[0] == first[1]


def test_an_interrupted_arm_comes_to_the_same(whole, project, tmp_path):
    output, _ = whole
    ablate(project / "recipe.yaml", seeds=[0], output=tmp_path / "again")
    again = scores(tmp_path / "again")
    assert again == {key: value for key, value in scores(output).items() if key in again}


def test_finished_arms_are_not_run_again_and_changed_ones_are_refused(whole, project, monkeypatch):
    monkeypatch.setattr(run_module, "train", None)
    ablate(project / "recipe.yaml", ["cache=elsewhere"], seeds=[0, 1], against="vanilla")
    for change, words in (("loss.beta=0.5", "loss.beta"), ("evaluation.tasks=[sts]", "evaluation.tasks")):
        with pytest.raises(UserError, match=rf"changed since: {words} \(was"):
            ablate(project / "recipe.yaml", [change], seeds=[0, 1])
    with pytest.raises(UserError, match="did you mean 'vanilla'"):
        ablate(project / "recipe.yaml", seeds=[0], against="vanila")


def test_side_by_side_comes_to_the_same_and_a_failure_is_said(project, tmp_path, monkeypatch):
    settings = ["loss.temperature=0.02,0.2", "training.steps=2"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    both = [
        sweep(project / "recipe.yaml", settings, seeds=[0], output=tmp_path / name, jobs=jobs)
        for name, jobs in (("one", 1), ("two", 2))
    ]
    assert scores(tmp_path / "one") == scores(tmp_path / "two")
    assert both[0]["rows"] == both[1]["rows"]
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "two", broken)
    for arm in broken.glob("temperature*"):  # rankings of other texts
        shutil.rmtree(arm)
    for ranking in broken.glob("mining-*/*.safetensors"):
        ranking.write_bytes(b"")
    with pytest.raises(UserError, match=r"temperature=0\.(02|2), seed 0: failed; .*log ends: "):
        sweep(project / "recipe.yaml", settings, seeds=[0], output=broken, jobs=2)


def test_no_evaluation_sets_is_said_before_anything_runs(project, tmp_path):
    with pytest.raises(UserError, match=r"evaluation\.folder"):
        sweep(
            project / "recipe.yaml",
            ["loss.beta=0.1,0.2", "evaluation.folder=null"],
            seeds=[0],
            output=tmp_path / "none",
        )
