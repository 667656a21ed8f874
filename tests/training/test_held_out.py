"""`evaluation.hold_out`: nothing held out is trained on, and runs resume with the same split."""

import random
from itertools import combinations
from pathlib import Path

import polars as pl
import pytest

import conan_embed.training.loop as loop_module
from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation.local import evaluate
from conan_embed.files import read_json, read_json_lines
from conan_embed.recipes.schema import Evaluation, Recipe
from conan_embed.training.false_negatives import find_false_negatives
from conan_embed.training.held_out import split_rows
from conan_embed.training.run import mine, train
from tests.support.many_processes import start_world
from tests.tiny_models import make_tiny_model

WORDS = ["file", "line", "memory", "python", "training", "data", "model", "negative", "answer", "park"]
COMMON = "an answer that several questions share, in a file of the training data"


def _rows(count: int, seed: int = 0) -> list[dict]:
    generator = random.Random(seed)
    phrase = lambda: " ".join(generator.choices(WORDS, k=6))  # noqa: E731
    return [{"query": f"{phrase()} {seed}{row}", "positive": f"{phrase()} {row}"} for row in range(count)]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    make_tiny_model("bert").save(tmp_path / "base")
    one = _rows(160)
    for row in one[:6]:
        row["positive"] = COMMON
    one.append({"query": one[20]["query"] + "!", "positive": one[20]["positive"] + "."})  # a near-duplicate
    two = [{**row, "negative": [one[7]["positive"]]} for row in _rows(60, seed=1)]
    two[0]["positive"] = one[0]["query"]  # a text of the other data set
    pl.DataFrame(one).write_parquet(tmp_path / "one.parquet")
    pl.DataFrame(two).write_ndjson(tmp_path / "two.jsonl")
    passages = [*(row["positive"] for row in one), *(f"{row['query']} passage" for row in _rows(50, seed=2))]
    corpus = pl.DataFrame({"text": passages}).unique(maintain_order=True)
    corpus.with_row_index("doc_id").with_columns(pl.col("doc_id").cast(pl.String)).write_parquet(
        tmp_path / "corpus.parquet"
    )
    sets = [
        {"name": "one", "path": str(tmp_path / "one.parquet"), "corpus": str(tmp_path / "corpus.parquet")},
        {"name": "two/b", "path": str(tmp_path / "two.jsonl")},
    ]
    return Recipe.model_validate(
        {
            "model": {"base": str(tmp_path / "base")},
            "data": {"retrieval": sets},
            "step": {"queries": 4, "num_negatives": 2, "sts_pairs": 0},
            "mining": {"depth": 12, "offset": 1, "precision": "float32"},
            "training": {"steps": 6, "checkpoint_every": 2, "precision": "float32"},
            "evaluation": {"hold_out": 0.2, "every": 2},
            "tracking": {"tensorboard": False},
            "output": str(tmp_path / "run"),
            "cache": str(tmp_path / "cache"),
        }
    )


def _held_out(run: Path) -> pl.DataFrame:
    """Return role, name, query and text of every held-out question's answers."""
    frames = []
    for folder in sorted((run / "held_out").glob("*/retrieval/*")):
        queries, judged, corpus = (
            pl.read_parquet(folder / f"{name}.parquet") for name in ("queries", "qrels", "corpus")
        )
        answers = judged.join(queries.rename({"text": "query"}), on="query_id").join(corpus, on="doc_id")
        frames.append(
            answers.select(
                pl.lit(folder.parts[-3]).alias("role"), pl.lit(folder.name).alias("name"), "query", "text"
            )
        )
    return pl.concat(frames)


def test_no_text_of_a_held_out_pair_is_trained_on_and_scores_are_reported(recipe: Recipe, capsys) -> None:
    run = train(recipe)
    held_out = _held_out(run)
    assert set(held_out["role"]) == {"development", "test"}
    assert set(held_out["name"]) == {"one", "two%2Fb"}
    files = [pl.read_parquet(file) for file in sorted((run / "held_out" / "training").glob("*[eb].parquet"))]
    trained = set(pl.concat(files)["query"]) | set(
        pl.concat([pl.concat([file["positive"], file["negative"]]) for file in files]).explode()
    )
    corpus = pl.read_parquet(run / "held_out" / "training" / "one.corpus.parquet")
    assert not set(held_out["text"]) & (trained | set(corpus["text"]))
    assert not set(held_out["query"]) & trained
    searched = pl.read_parquet(run / "held_out" / "test" / "retrieval" / "one" / "corpus.parquet")
    assert set(searched["text"]) == set(pl.read_parquet(recipe.data.retrieval[0].corpus)["text"]) | set(
        pl.read_parquet(recipe.data.retrieval[0].path)["positive"]
    )
    counts = read_json(run / "held_out" / "split.json")["counts"]
    assert sum(counts.values()) == 161 + 60
    scores = read_json(run / "held_out" / "scores.json")
    assert set(scores["before"]) == set(scores["after"]) == {"retrieval/one", "retrieval/two%2Fb"}
    assert "held out and not looked at before: ndcg_at_10" in capsys.readouterr().err
    assert len(read_json_lines(run / "evaluation.jsonl")) == 4


def test_scores_beside_the_texts_go_with_what_is_left_to_train_on(recipe: Recipe, tmp_path: Path) -> None:
    rows = [
        {**row, "pos_scores": [1.0 + number], "neg_scores": [-1.0 - number]}
        for number, row in enumerate(pl.read_ndjson(tmp_path / "two.jsonl").to_dicts())
    ]
    pl.DataFrame(rows).write_ndjson(tmp_path / "two.jsonl")
    taught = recipe.with_(teacher={"kind": "columns", "kl": 1.0}, step={"num_negatives": 1})
    folder = train(taught) / "held_out" / "training"
    left = pl.read_parquet(folder / "two%2Fb.parquet")
    scored = pl.read_parquet(folder / "two%2Fb.scores.parquet")
    score = {row["query"]: number for number, row in enumerate(rows, 1)}
    positives = left.select("query", passage="positive").explode("passage").drop_nulls()
    negatives = left.select("query", passage="negative").explode("passage").drop_nulls()
    expected = {(query, text, float(score[query])) for query, text in positives.iter_rows()}
    expected |= {(query, text, -float(score[query])) for query, text in negatives.iter_rows()}
    assert set(scored.iter_rows()) == expected and len(left) < len(rows)
    assert not (folder / "one.scores.parquet").exists()


def test_a_killed_run_resumes_with_the_same_split_and_the_same_numbers(
    recipe: Recipe, tmp_path: Path, monkeypatch
) -> None:
    whole = train(recipe)
    other = recipe.model_copy(update={"output": str(tmp_path / "killed")})
    save = loop_module.save_checkpoint

    def save_and_die(*arguments, **options) -> None:
        save(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop_module, "save_checkpoint", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train(other)
    monkeypatch.undo()
    resumed = train(other)

    def losses(run: Path) -> list[float]:
        return [line["loss"] for line in read_json_lines(run / "metrics.jsonl")]

    assert losses(whole) == losses(resumed)
    assert _held_out(whole).equals(_held_out(resumed))
    changed = other.model_copy(update={"evaluation": Evaluation(hold_out=0.3, every=2)})
    with pytest.raises(UserError, match=r"evaluation\.hold_out \(was 0\.2, is 0\.3\)"):
        train(changed)


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_other_data_under_a_checkpoint_leave_its_split_alone(recipe: Recipe, tmp_path: Path, capsys) -> None:
    run = train(recipe)
    split, data = _files(run / "held_out"), pl.read_ndjson(tmp_path / "two.jsonl")
    data.vstack(data[:1].with_columns(query=pl.lit("another query"))).write_ndjson(tmp_path / "two.jsonl")
    for attempt in (
        lambda: train(recipe),
        lambda: train(recipe, allow_changes=True),
        lambda: find_false_negatives(run),
    ):
        with pytest.raises(UserError, match=r"split\.json: the data changed since .*step-00000006: pairs\."):
            attempt()
        assert _files(run / "held_out") == split
    data.write_ndjson(tmp_path / "two.jsonl")
    assert train(recipe.with_(training={"steps": 7}), allow_changes=True) == run
    assert set(read_json(run / "held_out" / "scores.json")) >= {"before", "after"}


def _main_scores(tasks: dict) -> dict[str, float]:
    return {key: task["main_score"] for key, task in tasks.items()}


def test_scores_are_those_of_the_base_and_of_the_model_that_the_run_ends_with(
    recipe: Recipe, tmp_path: Path, monkeypatch
) -> None:
    """Whichever run it was that noted others before: with fewer steps, or from another base."""
    recipe = recipe.with_(
        optimizer={"learning_rate": 0.02}, evaluation={"keep_best": False}, training={"precision": "float32"}
    )

    def scored(model: Path) -> dict[str, float]:
        result = evaluate(EmbeddingModel.load(model), run / "held_out" / "test", precision="float32")
        return {key: task.main for key, task in result.items()}

    def noted() -> dict[str, dict[str, float]]:
        scores = read_json(run / "held_out" / "scores.json")
        return {when: _main_scores(scores[when]) for when in ("before", "after") if when in scores}

    with monkeypatch.context() as patch:  # killed with the base scored, and no checkpoint
        patch.setattr("conan_embed.training.run.TrainModule", None)
        with pytest.raises(TypeError):
            train(recipe)
    make_tiny_model("bert", seed=5).save(tmp_path / "base")
    run = train(recipe)
    expected = scored(tmp_path / "base")
    assert noted() == {"before": expected, "after": scored(run / "model")}
    longer = recipe.with_(training={"steps": 12})
    with monkeypatch.context() as patch:
        patch.setattr("conan_embed.training.run.TrainingLoop", None)
        with pytest.raises(TypeError):
            train(longer, allow_changes=True)
    assert noted() == {"before": expected}, "nobody takes the score of an earlier end for that of the next"
    train(longer, allow_changes=True)
    assert noted() == {"before": expected, "after": scored(run / "model")}


def test_scores_without_those_of_the_base_are_reported_alone(recipe: Recipe, capsys) -> None:
    run = train(recipe)
    (run / "held_out" / "scores.json").unlink()
    capsys.readouterr()
    train(recipe)  # finished: nothing is left to do but this
    reported = " ".join(capsys.readouterr().err.split())
    assert "retrieval/one, held out and not looked at before: ndcg_at_10 " in reported
    assert "->" not in reported


def test_other_scores_of_a_teacher_are_accepted_where_changes_are(recipe: Recipe, tmp_path: Path) -> None:
    def write_scores(first: float) -> None:
        rows = [
            {**row, "pos_scores": [first + number], "neg_scores": [-first - number]}
            for number, row in enumerate(pairs)
        ]
        pl.DataFrame(rows).write_ndjson(tmp_path / "two.jsonl")

    pairs = pl.read_ndjson(tmp_path / "two.jsonl").to_dicts()
    write_scores(1.0)
    taught = recipe.with_(teacher={"kind": "columns", "kl": 1.0}, step={"num_negatives": 1})
    run = train(taught)
    before, file = read_json(run / "held_out" / "scores.json")["before"], "training/two%2Fb.scores.parquet"
    write_scores(2.0)
    with pytest.raises(UserError, match=r"scores beside the texts.*accept the change with --allow-changes"):
        train(taught)
    longer = taught.with_(training={"steps": 7})
    train(longer, allow_changes=True)
    assert pl.read_parquet(run / "held_out" / file)["score"].abs().min() >= 2.0
    assert read_json(run / "held_out" / "scores.json")["before"] == before


def _train_in_a_world(settings: dict) -> None:
    train(Recipe.model_validate(settings))
    collectives.stop()


@pytest.mark.parametrize(
    ("node_sizes", "sharding"), [((2,), "none"), ((1, 1), "none"), ((2,), "optimizer"), ((2,), "full")]
)
def test_processes_and_nodes_that_share_a_disk_hold_out_the_same(
    recipe: Recipe, tmp_path: Path, node_sizes: tuple[int, ...], sharding: str
) -> None:
    alone = train(recipe)
    other = recipe.with_(training={"sharding": sharding}).model_copy(
        update={"output": str(tmp_path / "world"), "cache": str(tmp_path / "cache-world")}
    )
    assert start_world(2, _train_in_a_world, other.as_dict(), node_sizes=node_sizes) == [0, 0]
    world = tmp_path / "world"
    assert _held_out(alone).equals(_held_out(world))
    for file in sorted((alone / "held_out" / "training").iterdir()):
        assert pl.read_parquet(file).equals(pl.read_parquet(world / "held_out" / "training" / file.name))
    losses, scores = (
        [[line["loss"] for line in read_json_lines(run / "metrics.jsonl")] for run in (alone, world)],
        [read_json(run / "held_out" / "scores.json") for run in (alone, world)],
    )
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for when in ("before", "after"):
        for key, task in scores[0][when].items():
            assert scores[1][when][key]["main_score"] == pytest.approx(task["main_score"], abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evaluation": {"folder": "eval"}}, "beside evaluation.folder; expected one of the two"),
        ({"step": {"num_negatives": 0}, "data": {"stream": True}}, "beside data.stream"),
        ({"data": {"retrieval": [{"ranking": "r"}]}}, "beside a ranking of one"),
    ],
)
def test_what_does_not_go_with_it_is_refused(recipe: Recipe, change: dict, message: str) -> None:
    values = recipe.as_dict()
    for section, settings in change.items():
        for key, value in settings.items():
            if key == "retrieval":
                values["data"]["retrieval"][0] |= value[0]
            else:
                values[section][key] = value
    with pytest.raises(UserError, match=rf"evaluation\.hold_out: found 0\.2 {message}"):
        train(Recipe.model_validate(values))


def test_pairs_that_all_share_a_text_and_mining_alone_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    pl.DataFrame([{**row, "positive": COMMON} for row in _rows(50)]).write_parquet(tmp_path / "same.parquet")
    data = {"retrieval": [{"name": "same", "path": str(tmp_path / "same.parquet")}]}
    with pytest.raises(UserError, match="the 50 pairs form 1 groups that share texts"):
        train(recipe.with_(data=data))
    with pytest.raises(UserError, match="expected 0: `train` mines what it leaves"):
        mine(recipe, tmp_path / "mined")


def test_rows_that_share_a_text_stay_together() -> None:
    generator = random.Random(0)
    sets = [
        pl.DataFrame(
            {
                "query": [f"q{generator.randrange(400)}" for _ in range(300)],
                "positive": [[f"p{generator.randrange(500)}"] for _ in range(300)],
            }
        )
        for _ in range(2)
    ]
    roles = split_rows(sets, 0.1)
    rows = [{query, *positives} for frame in sets for query, positives in frame.iter_rows()]
    together = [(a, b) for a, b in combinations(range(len(rows)), 2) if rows[a] & rows[b]]
    assert together
    assert all(roles[a] == roles[b] for a, b in together)


def test_held_out_questions_end_a_run_that_does_not_improve(recipe: Recipe) -> None:
    still = recipe.with_(optimizer={"learning_rate": 1e-12}, evaluation={"patience": 2, "every": 1})
    run = train(still)  # nothing changes, so nothing improves
    assert [line["step"] for line in read_json_lines(run / "evaluation.jsonl")] == [0, 1, 2]
    assert set(read_json(run / "held_out" / "scores.json")) == {"before", "after", "models"}
