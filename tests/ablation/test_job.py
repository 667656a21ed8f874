"""One arm with one seed: which jobs share rankings, what a job starts from, and where its files lie."""

from pathlib import Path

import pytest
import yaml

from conan_embed.ablation.arms import Arm
from conan_embed.ablation.job import ArmResult, make_job
from conan_embed.files import write_json

SETS = [
    {"name": "faq", "path": "faq.jsonl"},
    {"name": "given", "path": "given.jsonl", "negative_source": "given"},
]
RECIPE = {
    "model": {"base": "base"},
    "data": {"retrieval": SETS},
    "step": {"queries": 8, "num_negatives": 2, "sts_pairs": 0},
    "training": {"steps": 4},
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def _job(source: Path, *overrides: str, seed: int = 0, **arm):
    return make_job(source, [], Arm("arm", overrides, **arm), seed, source.parent / "out")


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("hard_negatives.source=bank", True),
        ("optimizer.learning_rate=1e-4", True),
        ("data.retrieval.0.weight=3", True),
        ("model.dropout=0.1", True),
        ("mining.depth=77", False),
        ("mining.max_positive_ratio=0.9", False),
        ("model.base=other", False),
        ("model.max_length=33", False),
        ("data.retrieval.0.limit=5", False),
        ("data.on_bad_row=drop", False),
    ],
)
def test_jobs_share_rankings_where_the_same_would_be_mined(source: Path, override: str, same: bool) -> None:
    plain, changed = _job(source), _job(source, override, seed=1)
    assert plain.rankings is not None and plain.rankings.parent == source.parent / "out"
    assert (plain.rankings == changed.rankings) is same


@pytest.mark.parametrize(
    "override",
    ["step.num_negatives=0", "data.retrieval.0.negative_source=none"],
    ids=["no negatives", "none"],
)
def test_a_job_that_mines_nothing_has_no_rankings(source: Path, override: str) -> None:
    assert _job(source, override).rankings is None


def test_a_job_after_another_starts_from_its_model_of_the_same_seed(source: Path) -> None:
    later = _job(source, seed=2, after="first arm")
    earlier = source.parent / "out" / "first-arm" / "seed-2"
    assert later.recipe.model.base == str(earlier / "model")
    assert later.after == earlier.with_name("seed-2.json") and later.rankings is None
    assert not later.ready
    write_json(later.after, {})
    assert later.ready


def test_seeds_and_files_are_its_own(source: Path) -> None:
    job = _job(source, "training.seed=9", seed=1)
    assert job.recipe.training.seed == 1, "the job's seed, whatever the arm says"
    assert [path.name for path in (job.run, job.result, job.saved_recipe, job.log)] == [
        "seed-1",
        "seed-1.json",
        "seed-1.yaml",
        "seed-1.log",
    ]
    assert str(job) == "arm, seed 1"


def test_a_result_is_read_as_it_was_written(source: Path) -> None:
    job = _job(source)
    result = ArmResult("arm", 0, {"sts/a": 0.5}, {"updates": 4}, 1.5, {"sts/a": [0.25, 0.75]})
    write_json(job.result, result.to_json())
    assert job.read_result() == result
