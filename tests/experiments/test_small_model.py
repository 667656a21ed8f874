"""The small model: what is held out, what is declared, and that finished stages are not given other settings."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.evaluation.results import EvaluationResult, TaskResult
from conan_embed.evaluation.statistics import Estimate
from conan_embed.files import write_json, write_text
from conan_embed.filtering.minhash import plain
from conan_embed.recipes.data import Data
from conan_embed.recipes.loading import load_recipe

FOLDER = Path(__file__).parents[2] / "experiments"
MODULES = ("run", "report", "scoring", "costs", "sources", "data", "result_file")

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """A function that imports a module of the experiment; other experiments have modules of the same names."""
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.syspath_prepend(str(FOLDER / "small-model"))
    for variable in ("CONAN_DATA", "CONAN_WORK", "CONAN_START", "CONAN_BASE"):
        monkeypatch.setenv(variable, f"/{variable}")
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


def graded(seed: int) -> dict[str, pl.DataFrame]:
    """Two files of random pairs with texts in common, one of them with a group of hundreds."""
    generator = np.random.default_rng(seed)

    def pairs(count: int, texts: int) -> pl.DataFrame:
        first, second = (generator.integers(texts, size=count) for _ in range(2))
        rows = {"text_a": [f"Text {n}!" for n in first], "text_b": [f"text {n}" for n in second]}
        return pl.DataFrame({**rows, "score": generator.integers(2, size=count)})

    chain = pl.DataFrame(
        {
            "text_a": [f"link {n}" for n in range(300)],
            "text_b": [f"link {n + 1}" for n in range(300)],
            "score": [0] * 300,
        }
    )
    return {"one": pl.concat([pairs(400, 4000), chain.cast({"score": pl.Int64})]), "two": pairs(500, 4000)}


@pytest.mark.parametrize("seed", range(3))
def test_held_out_pairs_share_no_text_with_any_other_file(load: Load, seed: int) -> None:
    data = load("data")
    files = graded(seed)
    held_out = data.hold_out_pairs(files)
    known = data.texts_of([pairs.filter(held_out[name]) for name, pairs in files.items()])
    for name, pairs in files.items():
        assert 0.5 * len(pairs) // 10 <= held_out[name].sum() <= 1.5 * len(pairs) // 10
        rest = pairs.filter(~held_out[name])
        texts = {*plain(rest["text_a"]), *plain(rest["text_b"])}
        assert not texts & {*known}
    assert not held_out["one"][400:].any(), "a group of hundreds is never held out"


def test_rows_with_a_known_text_are_not_written(load: Load, tmp_path: Path) -> None:
    data = load("data")
    rows = pl.DataFrame(
        {
            "query": ["a", "b", "c", "known, too!"],
            "positive": [["x"], ["Known"], ["y"], ["z"]],
            "negative": [["u", "KNOWN."], [], ["v"], []],
        }
    )
    known = data.texts_of([pl.DataFrame({"text_a": ["known"], "text_b": ["known too"]})])
    data.write_training(rows, known, tmp_path / "rows.parquet")
    assert pl.read_parquet(tmp_path / "rows.parquet")["query"].to_list() == ["c"]


def test_a_set_of_questions_asks_among_other_passages(load: Load, tmp_path: Path) -> None:
    data = load("data")
    pairs = pl.DataFrame(
        {"query": [f"q{n}" for n in range(900)], "positive": [f"p{n // 2}" for n in range(900)]}
    )
    asked = data.write_set(pairs, tmp_path)
    corpus, queries, judged = (
        pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("corpus", "queries", "qrels")
    )
    assert len(asked) == len(queries) == data.QUESTIONS and asked["positive"].n_unique() == len(asked)
    assert corpus["text"].n_unique() == len(corpus) > len(queries)
    found = judged.join(queries, on="query_id").join(corpus, on="doc_id", suffix="_passage")
    assert {*found.select("text", "text_passage").iter_rows()} == {*asked.iter_rows()}


@pytest.mark.parametrize("file", ["fine-tuning", "zero-shot", "pre-training"])
def test_every_training_file_is_declared(load: Load, file: str) -> None:
    sources = load("sources")
    data = load_recipe(FOLDER / f"small-model/{file}.yaml").data
    domain = sources.in_domain(sources.files_of(data))
    if file == "fine-tuning":
        assert {"AFQMC", "ATEC", "LCQMC", "PAWSX", "QBQTC", "STSB", "MSRP-en", "CMRC2018"} <= {
            *domain["split"]
        }
        assert {"BUSTM", "MedicalQA", "TiDBDocs", "CSL-title2abstract"} <= {*domain["source"]}
    else:
        assert domain == {"split": [], "source": []}


def test_a_file_that_nobody_declared_is_refused(load: Load) -> None:
    data = Data.model_validate({"sts": [{"name": "new", "path": "folder/unheard_of.parquet"}]})
    with pytest.raises(UserError, match=r"unheard_of: not in sources\.py"):
        load("sources").files_of(data)


def test_the_statement_names_every_set_in_domain(load: Load) -> None:
    sources = load("sources")
    said = sources.statement("with-splits", ["afqmc_train", "oppo_dev", "drcd_dev"])
    assert "on other splits of AFQMC and on the source, or a related one, of ATEC, BUSTM" in said
    assert "on no split of an evaluated set" in sources.statement("zero-shot", ["drcd_dev"])


def test_zero_shot_reads_the_rankings_of_fine_tuning(load: Load) -> None:
    """Rankings are mined once, for the sets of fine-tuning.yaml: zero-shot.yaml must name the same rows."""
    with_splits, without = (
        {each.name: each for each in load_recipe(FOLDER / f"small-model/{name}.yaml").data.retrieval}
        for name in ("fine-tuning", "zero-shot")
    )
    recipes = [load_recipe(FOLDER / f"small-model/{name}.yaml") for name in ("fine-tuning", "zero-shot")]
    assert recipes[0].model == recipes[1].model and recipes[0].mining == recipes[1].mining
    for name, data in without.items():
        assert with_splits[name].model_dump(exclude={"weight"}) == data.model_dump(exclude={"weight"})


def test_a_finished_stage_refuses_other_settings(load: Load, tmp_path: Path) -> None:
    run = load("run")
    place = run.Workplace(Path("/base"), Path("/data"), tmp_path)
    recipe = place.recipe("fine-tuning.yaml", tmp_path / "full/with-splits")
    folder = Path(recipe.output)
    write_text(folder / "recipe.yaml", recipe.as_yaml())
    (folder / "model").mkdir()
    write_json(folder / "run.json", {"finished": "2026-11-28"})
    assert run.stage(place, recipe) == folder
    changed = recipe.with_(optimizer={"learning_rate": 0.1}, training={"checkpoint_every": 7})
    with pytest.raises(UserError, match=r"optimizer.learning_rate \(was 3e-05, is 0.1\); expected the same"):
        run.stage(place, changed)


def test_the_full_run_wants_the_choice_of_the_look(load: Load, tmp_path: Path) -> None:
    run = load("run")
    with pytest.raises(UserError, match=r"choice\.json: not there; expected the choice that `--look` writes"):
        run.read_choice(run.Workplace(Path("/base"), Path("/data"), tmp_path))


def test_few_queries_are_a_tenth(load: Load, tmp_path: Path) -> None:
    run = load("run")
    recipe = run.Workplace(Path("/base"), Path("/data"), tmp_path).recipe("fine-tuning.yaml", tmp_path)
    few = load_recipe(FOLDER / "small-model/fine-tuning.yaml", list(run.few_queries(recipe)))
    for whole, part in zip(recipe.data.retrieval, few.data.retrieval, strict=True):
        assert part.limit == (None if whole.limit is None else whole.limit // 10)
    assert few.hard_negatives.interval == recipe.hard_negatives.interval // 10


def result(seed: int, shift: float) -> EvaluationResult:
    generator = np.random.default_rng(seed)
    tasks = {}
    for name, count in (("retrieval/SciFact", 300), ("retrieval/XQuAD-en-zh", 900), ("reranking/R", 200)):
        items = 0.5 + 0.1 * generator.standard_normal(count) + shift
        tasks[name] = TaskResult(float(items.mean()), "m", {}, items=items.tolist())
    return EvaluationResult("m", 8, {}, tasks)


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.05])
def test_retention_is_the_difference_of_means_over_types(load: Load, loss: float) -> None:
    base, column = result(0, 0.0), result(0, -loss)
    differences = load("scoring").retention(base, column)
    assert [*differences] == ["average", "retrieval/SciFact", "retrieval/XQuAD-en-zh"]
    for difference in differences.values():
        assert difference.value == pytest.approx(-loss)
        assert difference.low <= difference.value + 1e-9 and difference.value - 1e-9 <= difference.high


def test_verdicts(load: Load) -> None:
    verdict = load("report").verdict
    assert verdict(Estimate(-0.01, -0.015, -0.005), -0.02) == "yes, with its interval"
    assert verdict(Estimate(-0.01, -0.03, 0.01), -0.02) == "yes, but not with its interval"
    assert verdict(Estimate(-0.02, -0.03, -0.01), -0.02) == "no, but the interval reaches it"
    assert verdict(Estimate(-0.05, -0.06, -0.04), -0.02) == "no"
    assert verdict(Estimate(0.0, 0.0, 0.0), 0.0) == "yes, with its interval"


def test_published_sets_that_are_not_at_hand_are_shown_as_missing(load: Load) -> None:
    report = load("report")
    tasks = {
        "sts/AFQMC": TaskResult(0.4, "cosine_spearman", {}),
        "sts/QBQTC-dev": TaskResult(0.33, "cosine_spearman", {}),
        "pair_classification/Ocnli": TaskResult(0.7, "ap", {"cosine_accuracy": 0.65}),
    }
    lines = report.published_lines({"zero-shot": EvaluationResult("m", 8, {}, tasks)})
    assert lines[0] == "| model | AFQMC | ATEC | LCQMC | PAWSX | QBQTC | STSB | Ocnli | Cmnli |"
    assert lines[2] == "| zero-shot | 40.0 | – | – | – | 33.0 (QBQTC-dev) | – | 65.0 | – |"


def test_costs_add_up_over_pieces(load: Load, tmp_path: Path) -> None:
    costs = load("costs")
    metrics = tmp_path / "full/one/metrics.jsonl"
    write_text(metrics, '{"step": 1, "tokens": 1000}\n{"step": 2, "tokens": 500}\n')
    lines = [("train full/one", 1800.0), ("train full/one", 1800.0), ("score development sets", 900.0)]
    text = "".join(
        f'{{"what": "{what}", "seconds": {2 * cpu}, "cpu_seconds": {cpu}}}\n' for what, cpu in lines
    )
    write_text(tmp_path / "costs.jsonl", text)
    training, scoring = costs.read_costs(tmp_path)
    assert (training.pieces, training.hours, training.cpu_hours) == (2, 2.0, 1.0)
    assert (training.steps, training.tokens, scoring.tokens) == (2, 1500, 0)
    # two steps of 0.1 s at least, and scoring as many times faster
    hours = 2 * costs.GPU_SECONDS_PER_STEP / 3600
    assert costs.gpu_hours([training, scoring], 1000) == pytest.approx(hours + 0.25 * hours)


def test_an_interrupted_piece_is_noted(load: Load, tmp_path: Path) -> None:
    costs = load("costs")
    with pytest.raises(KeyboardInterrupt), costs.spent(tmp_path, "mine base"):
        raise KeyboardInterrupt
    assert [cost.what for cost in costs.read_costs(tmp_path)] == ["mine base"]


def test_settings_of_a_stage_are_not_those_of_the_other(load: Load, tmp_path: Path) -> None:
    run = load("run")
    place = run.Workplace(
        Path("/base"), Path("/data"), tmp_path, ["step.sts_pairs=8", "training.steps=3"], ["training.steps=5"]
    )
    first, second = (place.recipe(file, tmp_path) for file in ("pre-training.yaml", "fine-tuning.yaml"))
    assert (first.step.sts_pairs, first.training.steps) == (0, 5)
    assert (second.step.sts_pairs, second.training.steps) == (8, 3)
