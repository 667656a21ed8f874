"""A run from end to end, as a person types it."""

from conan_embed.files import read_json, read_json_lines


def test_train_evaluate_search_and_report(command, here, project):
    trained = command("train", "my.yaml", "optimizer.learning_rate=1e-3", folder=project)
    assert trained.returncode == 0, trained.stderr
    metrics = read_json_lines(project / "run/metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4]
    wanted = {"learning_rate", "loss", "loss/retrieval", "loss/sts", "score/positive", "score/negative"}
    assert wanted | {"tokens", "tokens_per_second", "gradient_norm"} <= metrics[0].keys()
    assert [line["step"] for line in read_json_lines(project / "run/evaluation.jsonl")] == [0, 2, 4]
    # None after the last step, which no further one follows.
    assert [line["step"] for line in read_json_lines(project / "run/negatives.jsonl")] == [2]
    assert "learning_rate: 0.001" in (project / "run/recipe.yaml").read_text()
    assert list((project / "run/tensorboard").iterdir())
    page = (project / "run/report.html").read_text()
    assert "<html" in page and "hardest negatives" in page

    evaluated = here("evaluate", "run/model", "eval", "--width", "16,8", "--update-card", "-o", "scores.json")
    assert "Same" in evaluated.out
    assert set(read_json(project / "scores.json")["tasks"]["sts/Same"]["widths"]) == {"16", "8"}
    assert "| local sets | sts/Same |" in (project / "run/model/README.md").read_text()

    here("false-negatives", "run", "--margin", "2", "-o", "label.jsonl")
    assert {line["label"] for line in read_json_lines(project / "label.jsonl")} == {""}

    (project / "passages.jsonl").write_text('{"text": "Python file"}\n{"text": "nice park"}\n')
    found = here("search", "Python file", "--model", "run/model", "--corpus", "passages.jsonl")
    assert "Python file" in found.out

    # The same command again has nothing left to do, and says where it stands.
    again = here("train", "my.yaml", "optimizer.learning_rate=1e-3")
    assert "run is finished: all 4 steps are done" in again.err


def test_mined_rankings_are_read_by_train(command, here, project):
    here("mine", "my.yaml", "-o", "mined")
    facts = read_json(project / "mined/mining.json")["datasets"]["pairs"]
    assert facts["queries"] == 36
    assert facts["examples"][0]["negatives"]
    trained = command("train", "my.yaml", "data.retrieval.0.ranking=mined", folder=project)
    assert trained.returncode == 0, trained.stderr


def test_all_keys_of_a_recipe_are_listed_with_their_meaning(command, tmp_path):
    done = command("recipe", "--keys", folder=tmp_path)
    assert "learning_rate: 1.0e-05" in done.stdout
    assert "decay * S < S_0" in done.stdout
