"""Training in Python: recipes made from pairs, and what a finished run shows."""

from pathlib import Path
from typing import Any

import pytest

import conan_embed as ce
from tests.api.test_pairs import in_memory
from tests.support.docs import bundled_model


def test_recipe_trains_on_pairs_from_memory_and_from_a_file(faq: Path) -> None:
    of_file = ce.Recipe.small(model="m", retrieval=ce.read_pairs(faq)).data.retrieval[0]
    of_memory = ce.Recipe.small(model="m", retrieval=ce.read_pairs(in_memory("dicts"))).data.retrieval[0]
    assert of_file.path == str(faq)
    assert ce.read_pairs(of_memory.path).to_frame().equals(ce.read_pairs(faq).to_frame())


def test_recipe_keeps_named_columns(tmp_path: Path) -> None:
    path = tmp_path / "faq.csv"
    path.write_text("title,body\nHow?,So.\n")
    pairs = ce.read_pairs(path, columns={"query": "title", "positive": "body"})
    assert ce.Recipe.small(model="m", retrieval=pairs).data.retrieval[0].columns == {
        "query": "title",
        "positive": "body",
    }


def test_with_replaces_lists_whole_and_merges_sections() -> None:
    recipe = ce.Recipe.small(model="m", retrieval="a.jsonl")
    changed = recipe.with_(data={"retrieval": [{"name": "b", "path": Path("b.jsonl")}]}, step={"queries": 8})
    assert [data.name for data in changed.data.retrieval] == ["b"]
    assert changed.step == recipe.step.model_copy(update={"queries": 8})
    assert recipe.step.queries == 32


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stepp": {}}, r"Recipe.with_: stepp: unknown key \(did you mean 'step'\?\)"),
        ({"step": {"queries": -1}}, "Recipe.with_: step.queries: found -1; input should be greater than"),
    ],
)
def test_with_refuses_what_a_recipe_does_not_have(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ce.UserError, match=sentence):
        ce.Recipe.small(model="m", retrieval="a.jsonl").with_(**changes)


def test_a_run_has_its_model_history_report_and_checkpoints(faq: Path) -> None:
    recipe = ce.Recipe.small(model=bundled_model(), retrieval=faq, output="run").with_(
        training={"steps": 3, "checkpoint_every": 2}, step={"queries": 4, "num_negatives": 1}
    )
    run = ce.train(recipe)
    assert run.history["step"].to_list() == [1, 2, 3]
    assert [path.name for path in run.checkpoints] == ["step-00000002", "step-00000003"]
    assert run.report.read_text().startswith("<!DOCTYPE html>")
    assert run.model.encode(["a text"]).shape == (1, 384)
    assert run.model is run.model
    again = ce.train(recipe)  # finished: nothing is trained again
    assert again.history.equals(run.history)


def test_training_on_a_missing_file_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ce.UserError, match=r"gone\.jsonl: no such file"):
        ce.train(ce.Recipe.small(model=bundled_model(), retrieval="gone.jsonl", output="run"))
