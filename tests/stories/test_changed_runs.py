"""What a run that is started again may not have: other data, a best model of other sets or branches, an old result."""

import json
import shutil

import pytest

import conan_embed.training.loop as loop_module
from conan_embed.errors import UserError
from conan_embed.files import read_json, write_json
from conan_embed.recipes.schema import Recipe
from conan_embed.training.evaluator import Evaluator
from conan_embed.training.run import mine, train
from tests.tiny_models import SENTENCES, make_tiny_model

WORDS = sorted({word for text in SENTENCES for word in text.replace("，", " ").replace(",", " ").split()})


def phrase(number):
    """Two words; other numbers, other tokens."""
    return f"{WORDS[number]} {WORDS[-1 - number]}"


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def make_recipe(folder, **sections):
    values = {
        "model": {"base": str(folder / "model")},
        "data": {
            "retrieval": [{"name": "pairs", "path": str(folder / "pairs.jsonl")}],
            "sts": [{"name": "sts", "path": str(folder / "sts.jsonl")}],
        },
        "step": {"queries": 3, "num_negatives": 1, "sts_pairs": 3, "too_few_negatives": "allow"},
        "mining": {"depth": 4, "offset": 0, "precision": "float32"},
        "training": {"steps": 5, "checkpoint_every": 3, "keep_checkpoints": 9, "precision": "float32"},
        "tracking": {"tensorboard": False},
        "output": str(folder / "run"),
        "cache": str(folder / "cache"),
    }
    values |= {name: values.get(name, {}) | section for name, section in sections.items()}
    return Recipe.model_validate(values)


def kill_after(monkeypatch, step):
    """End the run as a kill does, once step `step` and what follows it (evaluation, checkpoint) are done."""
    original = loop_module.TrainingLoop._step

    def stepping(self):
        result = original(self)
        if self.progress.step == step:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(loop_module.TrainingLoop, "_step", stepping)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run with everything, killed after the checkpoint of step 3."""
    folder = tmp_path_factory.mktemp("killed")
    make_tiny_model("bert", prompts={"query": "问："}).save(folder / "model")
    rows = range(6)
    pairs = [{"query": phrase(i), "positive": [phrase(i + 1), phrase(i + 2)]} for i in rows]
    write(folder / "pairs.jsonl", pairs)
    write(
        folder / "given.jsonl",
        [{"query": phrase(i), "positive": phrase(i - 1), "negative": phrase(9 + i)} for i in range(8, 12)],
    )
    sts = [{"text_a": phrase(i), "text_b": phrase(i + 2), "score": i % 3} for i in rows]
    write(folder / "sts.jsonl", sts)
    write(folder / "eval/sts/dev.jsonl", sts)
    mine(make_recipe(folder), folder / "rankings")
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(with_everything(folder))
    return folder


def with_everything(folder):
    retrieval = [
        {"name": "pairs", "path": str(folder / "pairs.jsonl"), "ranking": str(folder / "rankings")},
        {"name": "given", "path": str(folder / "given.jsonl"), "negative_source": "given"},
    ]
    sts = [{"name": "sts", "path": str(folder / "sts.jsonl")}]
    evaluation = {"folder": str(folder / "eval"), "every": 2}
    return make_recipe(folder, data={"retrieval": retrieval, "sts": sts}, evaluation=evaluation)


def change_rows(name, change):
    def apply(folder):
        rows = read(folder / name)
        change(rows)
        write(folder / name, rows)

    return apply


def turn_scores(rows):
    for row in rows:
        row["score"] = 2 - row["score"]


def other_positive(rows):
    rows[-1]["positive"] = [*rows[-1]["positive"], *rows[0]["positive"]]


def other_ranking(folder):
    """Mine again, deeper and without the first rank."""
    shutil.rmtree(folder / "rankings")
    mine(make_recipe(folder, model={"base": str(folder / "model"), "pooling": "cls"}), folder / "rankings")


def other_prompt(folder):
    path = folder / "model" / "config_sentence_transformers.json"
    write_json(path, read_json(path) | {"prompts": {"query": "ask: ", "document": "", "sts": ""}})


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (change_rows("sts.jsonl", turn_scores), "scores of 'sts'"),
        (change_rows("sts.jsonl", lambda rows: rows[0].update(text_b=rows[3]["text_b"])), "pairs of 'sts'"),
        (change_rows("pairs.jsonl", other_positive), "positives of 'pairs'"),
        (
            change_rows(
                "given.jsonl", lambda rows: rows[1].update(negative=[rows[i]["negative"] for i in (1, 0)])
            ),
            "negatives of 'given'",
        ),
        (other_ranking, "rankings"),
        (change_rows("eval/sts/dev.jsonl", turn_scores), "evaluation sets"),
        (other_prompt, "tokenizer, prompts or pooling of the base"),
    ],
    ids=["scores", "pairs", "positives", "negatives", "rankings", "evaluation sets", "prompts of the base"],
)
def test_other_data_than_the_checkpoints_is_refused_by_name(killed, tmp_path, change, part):
    folder = tmp_path / "copy"
    shutil.copytree(killed, folder)
    for path in (folder / "run").rglob("*.json"):  # the checkpoint notes paths, which are others in a copy
        path.write_text(path.read_text(encoding="utf-8").replace(str(killed), str(folder)), encoding="utf-8")
    change(folder)
    with pytest.raises(UserError, match="step-00000003: the data changed since: ") as error:
        train(with_everything(folder))
    assert part in str(error.value)
    assert "--allow-changes" in str(error.value)


# ---------------------------------------------------------------------------------------------- the best model


@pytest.fixture
def folder(tmp_path):
    make_tiny_model("bert").save(tmp_path / "model")
    write(tmp_path / "pairs.jsonl", [{"query": phrase(i), "positive": phrase(i + 6)} for i in range(6)])
    sts = [{"text_a": phrase(i), "text_b": phrase(i + 1), "score": i % 3} for i in range(6)]
    write(tmp_path / "sts.jsonl", sts)
    for name in ("eval", "other"):
        write(
            tmp_path / name / "sts/dev.jsonl",
            [{"text_a": name, "text_b": "b", "score": 1}, {"text_a": "c", "text_b": "d", "score": 2}],
        )
    return tmp_path


def scores_are(monkeypatch, scores):
    """Let the evaluation after each step come out as told."""
    monkeypatch.setattr(Evaluator, "evaluate", lambda self, model, step, log, *, examples: scores[step])


def step_of(model):
    return read_json(model / "conan_embed.json")["step"]


def evaluated(folder, sets="eval", **sections):
    return make_recipe(folder, evaluation={"folder": str(folder / sets), "every": 1}, **sections)


def test_the_best_model_of_a_killed_branch_is_not_the_result(folder, monkeypatch):
    with monkeypatch.context() as patch:
        scores_are(patch, [0.1, 0.2, 0.5, 0.3, 0.9])
        kill_after(patch, 4)  # the checkpoint is of step 3
        with pytest.raises(KeyboardInterrupt):
            train(evaluated(folder))
    assert (folder / "run/best/step-00000004").exists()
    scores_are(monkeypatch, [None, None, None, None, 0.4, 0.3])
    changed = evaluated(folder, optimizer={"learning_rate": 1e-4})
    assert step_of(train(changed, allow_changes=True) / "model") == 2
    assert not (folder / "run/best").exists()


def test_the_best_model_of_other_evaluation_sets_is_not_the_result(folder, monkeypatch):
    with monkeypatch.context() as patch:
        scores_are(patch, [0.1, 0.9, 0.5, 0.3])
        kill_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(evaluated(folder))
    scores_are(monkeypatch, [None, None, None, None, 0.4, 0.3])
    assert step_of(train(evaluated(folder, "other")) / "model") == 4


def test_the_model_of_an_earlier_end_is_not_taken_for_the_result(folder, monkeypatch):
    """The run is given more steps, and killed after its last checkpoint, before its model is written."""
    assert step_of(train(make_recipe(folder)) / "model") == 5
    longer = {"steps": 7, "checkpoint_every": 3, "keep_checkpoints": 9, "precision": "float32"}
    with monkeypatch.context() as patch:
        kill_in_the_end = lambda self: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
        patch.setattr(loop_module.TrainingLoop, "_write_model", kill_in_the_end)
        with pytest.raises(KeyboardInterrupt):
            train(make_recipe(folder, training=longer), allow_changes=True)
    assert step_of(train(make_recipe(folder, training=longer)) / "model") == 7
