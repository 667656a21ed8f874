"""Whole runs of a tiny model: what they leave behind, how they stop, and how they go on."""

import json
import os
import resource
import shutil
import signal

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import conan_embed.training.checkpoint as checkpoint_module
import conan_embed.training.loop as loop_module
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.files import read_json_lines
from conan_embed.recipes.schema import Recipe
from conan_embed.training.checkpoint import checkpoints
from conan_embed.training.false_negatives import find_false_negatives
from conan_embed.training.run import mine, train
from tests.tiny_models import SENTENCES, make_tiny_model

NUM_STEPS = 8
SHARD = "shard-00001-model-00001-of-00001.safetensors"  # of a run on one process
TIMES = (
    "seconds",
    "seconds_between",
    "tokens_per_second",
)  # the only figures that two equal runs do not share


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a tiny base model, training files and an evaluation folder; nobody writes into it."""
    folder = tmp_path_factory.mktemp("base")
    make_tiny_model("bert", dense_width=12, widths=(4,), prompts={"query": "问："}).save(folder / "model")
    words = sorted(
        {piece for text in SENTENCES for piece in text.replace("，", " ").replace(",", " ").split()}
    )
    generator = np.random.default_rng(0)
    phrase = lambda: " ".join(generator.choice(words, 3))  # noqa: E731
    write(
        folder / "pairs.jsonl",
        [{"query": f"{phrase()} {i}", "positive": [phrase(), phrase()]} for i in range(20)],
    )
    write(
        folder / "given.jsonl",
        [{"query": phrase(), "positive": phrase(), "negative": [phrase()] * 2} for _ in range(6)],
    )
    write(folder / "classes.jsonl", [{"text": f"{phrase()} {i}", "label": i % 3} for i in range(12)])
    write(folder / "sts.jsonl", [{"text_a": phrase(), "text_b": phrase(), "score": i % 4} for i in range(10)])
    (folder / "eval" / "sts").mkdir(parents=True)
    shutil.copy(folder / "sts.jsonl", folder / "eval" / "sts" / "dev.jsonl")
    return folder


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def recipe(base, tmp_path):
    """A function that makes a recipe of this test; sections given are laid over a small joint run."""

    def make(name="run", **sections):
        values = {
            "model": {"base": str(base / "model")},
            "data": {
                "retrieval": [{"name": "pairs", "path": str(base / "pairs.jsonl")}],
                "sts": [{"name": "sts", "path": str(base / "sts.jsonl")}],
            },
            "step": {"queries": 4, "num_negatives": 2, "sts_pairs": 4},
            "mining": {"depth": 12, "offset": 1, "precision": "float32"},
            # A small decay and a high ceiling: whatever was seen twice is replaced at every check.
            "hard_negatives": {
                "source": "ranking",
                "interval": 2,
                "decay": 0.1,
                "max_score": 5.0,
                "on_exhausted": "restart",
            },
            "optimizer": {"learning_rate": 2e-3},
            "training": {
                "steps": NUM_STEPS,
                "checkpoint_every": 3,
                "keep_checkpoints": 9,
                "precision": "float32",
            },
            "tracking": {"tensorboard": False},
            "output": str(tmp_path / name),
            "cache": str(tmp_path / "cache"),
        }
        for section, settings in sections.items():
            values[section] = values.get(section, {}) | settings
        return Recipe.model_validate(values)

    return make


def lines(run, name):
    """The lines of a log without the times of this machine."""
    return [
        {k: v for k, v in line.items() if k not in TIMES} for line in read_json_lines(run / f"{name}.jsonl")
    ]


def scores(run):
    """Step and scores of each evaluation."""
    return [
        (
            line["step"],
            {
                task: {k: v for k, v in result.items() if k not in TIMES}
                for task, result in line["results"].items()
            },
        )
        for line in read_json_lines(run / "evaluation.jsonl")
    ]


def weights(run):
    return {
        str(path.relative_to(run)): load_file(path) for path in sorted((run / "model").rglob("*.safetensors"))
    }


def assert_same_run(one, two):
    for name in ("metrics", "negatives"):
        assert lines(one, name) == lines(two, name)
    assert scores(one) == scores(two)
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for path, tensors in first.items():
        assert all(torch.equal(second[path][name], tensor) for name, tensor in tensors.items()), path


def interrupt_at(monkeypatch, step, interruption):
    """Call `interruption` after the optimizer's work of step `step` (counted from 1)."""
    original = loop_module.train_step

    def stepping(*arguments, **settings):
        result = original(*arguments, **settings)
        if arguments[1].plan.step + 1 == step:
            interruption()
        return result

    monkeypatch.setattr(loop_module, "train_step", stepping)


def killed():
    raise KeyboardInterrupt


# --------------------------------------------------------------------------------------------- what a run leaves


def test_a_run_leaves_everything_behind(recipe, base):
    wanted = recipe(
        evaluation={"folder": str(base / "eval"), "every": 3},
        tracking={"tensorboard": True},
        model={"widths": [4, 6]},
    )
    run = train(wanted)
    assert Recipe.model_validate(yaml.safe_load((run / "recipe.yaml").read_text())) == wanted
    facts = json.loads((run / "run.json").read_text())
    assert facts["steps"] == NUM_STEPS
    assert facts["widths"] == [12, 6, 4]
    assert facts["finished"] >= facts["started"]
    assert facts["datasets"] == [
        {"task": "retrieval", "name": "pairs", "rows": 20},
        {"task": "sts", "name": "sts", "rows": 10},
    ]
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert "| pairs | retrieval | 20 |" in card and "## Results" in card and "model-index" in card
    metrics = lines(run, "metrics")
    assert [line["step"] for line in metrics] == list(range(1, NUM_STEPS + 1))
    for line in metrics:
        assert set(line) == {
            *("step", "epoch", "learning_rate", "loss", "loss/retrieval", "loss/sts"),
            *("score/positive", "score/negative", "score/background", "gradient_norm", "texts", "tokens"),
            *("share/positive", "share/hard", "share/in_batch"),
        }
        assert line["loss"] == pytest.approx(line["loss/retrieval"] + 0.8 * line["loss/sts"], rel=1e-5)
        assert -1 <= line["score/negative"] <= 1
        shares = [line[f"share/{name}"] for name in ("positive", "hard", "in_batch")]
        assert min(shares) >= -1e-6 and sum(shares) == pytest.approx(1)
        assert line["texts"] <= 4 + 4 * 3 + 8
        assert line["tokens"] >= 3 * line["texts"]
    rates = [line["learning_rate"] for line in metrics]
    assert rates == pytest.approx(
        [2e-3 * (1 - i / NUM_STEPS) for i in range(NUM_STEPS)]
    )  # warm-up rounds to 0
    checks = lines(run, "negatives")
    assert [line["step"] for line in checks] == [2, 4, 6, 8]
    assert sum(line["replaced"] for line in checks) > 0
    assert [step for step, _ in scores(run)] == [0, 3, 6, 8]
    assert [path.name for path in checkpoints(run / "checkpoints")] == [f"step-{i:08d}" for i in (3, 6, 8)]
    assert "pairs" in json.loads((run / "mining" / "mining.json").read_text())["datasets"]
    assert list((run / "tensorboard").iterdir())
    assert not list(run.rglob("*.tmp"))
    model = EmbeddingModel.load(run / "model")
    assert model.widths == (12, 6, 4)
    assert np.isfinite(model.encode(SENTENCES)).all()


def test_the_hardest_negatives_are_scored_by_the_model_and_found_again(recipe, base):
    """By hand: every pair is scored by the saved model, and what is suspect follows from the scores."""
    run = train(
        recipe(
            data={
                "retrieval": [
                    {"name": "pairs", "path": str(base / "pairs.jsonl")},
                    {"name": "given", "path": str(base / "given.jsonl"), "negative_source": "given"},
                ],
                "classification": [{"name": "classes", "path": str(base / "classes.jsonl")}],
            },
            step={"too_few_negatives": "allow"},
        )
    )
    written = lines(run, "hard_negatives")
    assert {line["data_set"] for line in written} == {"pairs", "given", "classes"}
    model = EmbeddingModel.load(run / "model")

    def encode(texts, role):
        return model.encode(texts, prompt=model.prompts[role], precision="float32")

    positives = {row["query"]: row["positive"] for row in read_json_lines(base / "pairs.jsonl")}
    for line in written:
        if line["data_set"] == "pairs":
            assert line["negative"] not in positives[line["query"]]
            assert line["rank"] >= 1  # the offset
            query = encode([line["query"]], "query")[0]
            answers = encode(positives[line["query"]], "passage") @ query
            assert line["positive"] == positives[line["query"]][int(answers.argmax())]
            assert line["positive_score"] == pytest.approx(answers.max(), abs=1e-3)
            assert line["negative_score"] == pytest.approx(
                encode([line["negative"]], "passage")[0] @ query, abs=1e-3
            )
        else:
            assert line["rank"] is line["mined_negative_score"] is line["mined_positive_score"] is None
        near = line["negative_score"] >= line["positive_score"] - 0.05
        mined_above = (line["mined_negative_score"] or -2) >= (line["mined_positive_score"] or 2)
        assert line["suspect"] == (near or mined_above)
        assert line["label"] == ""
    gaps = [line["negative_score"] - line["positive_score"] for line in written]
    assert gaps == sorted(gaps, reverse=True)

    # The files of the run alone tell the same, and what is left out is what lies below a wider margin.
    result = find_false_negatives(run, limit=200, margin=2.0)
    again = lines(run, "hard_negatives")
    assert [{**line, "suspect": None} for line in again] == [{**line, "suspect": None} for line in written]
    assert result.likely == result.checked == len(again) == len(read_json_lines(result.file))
    output = find_false_negatives(run, run / "few.jsonl", limit=6, margin=-2.0).file
    assert len(lines(run, "hard_negatives")) == 6
    assert read_json_lines(output) == [line for line in lines(run, "hard_negatives") if line["suspect"]]


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("checkpoints", "not a finished run"),
        ("checkpoints/*/negatives.safetensors", "holds no hard negatives"),
    ],
)
def test_false_negatives_need_a_finished_run_with_hard_negatives(recipe, gone, words):
    run = train(recipe(training={"steps": 2, "checkpoint_every": 0}))
    (path,) = run.glob(gone)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=words):
        find_false_negatives(run)


def test_training_lowers_the_loss(recipe):
    run = train(
        recipe(
            training={"steps": 30, "checkpoint_every": 0},
            step={"queries": 20, "sts_pairs": 10},
            optimizer={"learning_rate": 1e-2},
        )
    )
    losses = [line["loss"] for line in lines(run, "metrics")]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_the_model_kept_is_that_of_the_best_evaluation(recipe, base):
    run = train(
        recipe(evaluation={"folder": str(base / "eval"), "every": 1}, optimizer={"learning_rate": 0.05})
    )
    average = {line["step"]: line["summary"]["average"] for line in read_json_lines(run / "evaluation.jsonl")}
    best = max(average, key=lambda step: (average[step], -step))
    assert best < NUM_STEPS  # at such a learning rate, or the test says nothing
    assert json.loads((run / "model" / "conan_embed.json").read_text())["step"] == best
    assert not (run / "best").exists()


def test_without_evaluation_or_keep_best_the_last_model_is_kept(recipe, base):
    evaluation = {"folder": str(base / "eval"), "every": 1, "keep_best": False}
    run = train(recipe(evaluation=evaluation, optimizer={"learning_rate": 0.3}))
    assert json.loads((run / "model" / "conan_embed.json").read_text())["step"] == NUM_STEPS
    final = load_file(run / "checkpoints" / f"step-{NUM_STEPS:08d}" / "model" / SHARD)
    assert torch.equal(
        load_file(run / "model" / "2_Dense" / "model.safetensors")["linear.weight"], final["dense.weight"]
    )


@pytest.mark.parametrize(
    "sections",
    [
        {"step": {"queries": 0}},
        {"step": {"sts_pairs": 0, "num_negatives": 0, "in_batch": "step"}},
        {"step": {"mixing": "sequential"}},
        {"step": {"one_dataset": True}},
        {"training": {"precision": "bfloat16", "activation_checkpointing": True, "chunk_tokens": 40}},
        {"hard_negatives": {"source": "static"}},
        {"hard_negatives": {"source": "bank", "bank_width": 4, "refresh": 2}},
        {"hard_negatives": {"source": "remine"}},
    ],
    ids=str,
)
def test_kinds_of_runs(recipe, base, sections):
    retrieval = [
        {"name": "pairs", "path": str(base / "pairs.jsonl")},
        {"name": "given", "path": str(base / "given.jsonl"), "negative_source": "given"},
        {"name": "none", "path": str(base / "given.jsonl"), "negative_source": "none"},
    ]
    classes = [{"name": "classes", "path": str(base / "classes.jsonl")}]
    data = {"retrieval": retrieval, "classification": classes}
    step = {"queries": 4, "sts_pairs": 4, "num_negatives": 1} | sections.get("step", {})
    run = train(recipe(**(sections | {"data": data, "step": step})))
    metrics = lines(run, "metrics")
    assert len(metrics) == NUM_STEPS
    assert any("loss/retrieval" in line for line in metrics) == (step["queries"] > 0)
    assert any("loss/sts" in line for line in metrics) == (step["sts_pairs"] > 0)


def test_rankings_made_before_are_used(recipe, base, tmp_path, monkeypatch):
    folder = mine(recipe(), tmp_path / "rankings")
    data = {"retrieval": [{"name": "pairs", "path": str(base / "pairs.jsonl"), "ranking": str(folder)}]}
    expected = train(recipe("one"))
    monkeypatch.setattr("conan_embed.negatives.prepare.mine", None)
    assert_same_run(train(recipe("two", data=data)), expected)


# ------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"hard_negatives": {"source": "bank", "refresh": 2}},
        {
            "step": {"mixing": "sequential", "queries": 16},
            "model": {"dropout": 0.2},
            "training": {"precision": "bfloat16"},
        },
        {
            "step": {"in_batch": "step_hard"},
            "loss": {"ignore_above_positive": 0.0},
            "hard_negatives": {"source": "remine", "rule": "each", "interval": 1, "decay": 0.9},
        },
        {"hard_negatives": {"rule": "share", "min_share": 0.5, "interval": 2}},
    ],
    ids=["ranking", "bank", "sequential, dropout, bfloat16", "each, remine, guard", "share"],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(recipe, base, monkeypatch, sections):
    sections = sections | {"evaluation": {"folder": str(base / "eval"), "every": 2}}
    undisturbed = train(recipe("undisturbed", **sections))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe("killed", **sections))
    assert [path.name for path in checkpoints(undisturbed.parent / "killed" / "checkpoints")] == [
        "step-00000003"
    ]
    run = train(recipe("killed", **sections))
    assert sum(line["replaced"] for line in lines(run, "negatives")) > 0
    assert_same_run(run, undisturbed)


def test_killed_before_the_first_checkpoint_and_inside_the_last_line(recipe, monkeypatch):
    undisturbed = train(recipe("undisturbed"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe("killed"))
    with (undisturbed.parent / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert_same_run(train(recipe("killed")), undisturbed)


def test_killed_while_saving_the_older_checkpoint_is_used(recipe, monkeypatch):
    undisturbed = train(recipe("undisturbed"))
    with monkeypatch.context() as patch:
        write_json = checkpoint_module.write_json

        def dying(path, value):
            if "step-00000006" in str(path):
                killed()
            write_json(path, value)

        patch.setattr(checkpoint_module, "write_json", dying)
        with pytest.raises(KeyboardInterrupt):
            train(recipe("killed"))
    folder = undisturbed.parent / "killed" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-00000003"]
    # A process that had no time to tidy up leaves a folder like this one.
    shutil.copytree(folder / "step-00000003", folder / ".step-00000006.12345.tmp")
    run = train(recipe("killed"))
    assert_same_run(run, undisturbed)
    assert sorted(path.name for path in folder.iterdir()) == [f"step-{i:08d}" for i in (3, 6, 8)]


def test_a_request_to_stop_saves_and_leaves(recipe, monkeypatch):
    undisturbed = train(recipe("undisturbed"))
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    for number, step in ((signal.SIGTERM, 4), (signal.SIGINT, 5)):
        with monkeypatch.context() as patch:
            interrupt_at(patch, step, lambda n=number: os.kill(os.getpid(), n))
            with pytest.raises(UserError, match=f"stopped on request after step {step} of {NUM_STEPS}"):
                train(recipe("stopped"))
        assert checkpoints(undisturbed.parent / "stopped" / "checkpoints")[-1].name == f"step-{step:08d}"
    assert handlers == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    assert_same_run(train(recipe("stopped")), undisturbed)


def test_a_second_interrupt_does_not_wait(recipe, monkeypatch):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    interrupt_at(monkeypatch, 2, twice)
    # A job in the background of a shell ignores interrupts from the start; this one is in the foreground.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(recipe())
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_finished_run_is_left_alone(recipe, base):
    wanted = recipe(evaluation={"folder": str(base / "eval"), "every": 2}, optimizer={"learning_rate": 0.3})
    run = train(wanted)
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    assert train(wanted) == run
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before


def test_only_the_newest_checkpoints_are_kept(recipe):
    run = train(recipe(training={"steps": 6, "checkpoint_every": 1, "keep_checkpoints": 2}))
    assert [path.name for path in checkpoints(run / "checkpoints")] == ["step-00000005", "step-00000006"]


def test_a_new_start_forgets_the_old_one(recipe):
    run = train(recipe())
    expected = weights(run)
    train(recipe(loss={"temperature": 0.5}), resume=False)
    assert [line["step"] for line in lines(run, "metrics")] == list(range(1, NUM_STEPS + 1))
    other = weights(run)
    assert any(not torch.equal(other[p][n], t) for p, tensors in expected.items() for n, t in tensors.items())


# ----------------------------------------------------------------------------------------------- what goes wrong


@pytest.fixture
def half(recipe, monkeypatch):
    """A run stopped after step 5, with checkpoints of 3 and 5."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(UserError, match="stopped on request"):
            train(recipe())
    return recipe


def test_a_changed_recipe_is_refused_with_the_difference(half, tmp_path):
    before = (tmp_path / "run" / "recipe.yaml").read_text()
    changed = half(loss={"temperature": 0.5}, step={"queries": 4, "sts_pairs": 2})
    with pytest.raises(UserError) as error:
        train(changed)
    for words in (
        "loss.temperature (was 0.02, is 0.5)",
        "step.sts_pairs (was 4, is 2)",
        "--allow-changes",
        "step-00000005",
    ):
        assert words in str(error.value)
    assert (tmp_path / "run" / "recipe.yaml").read_text() == before
    run = train(changed, allow_changes=True)
    assert len(lines(run, "metrics")) == NUM_STEPS
    assert yaml.safe_load((run / "recipe.yaml").read_text())["loss"]["temperature"] == 0.5


def test_settings_that_change_nothing_may_change(half, base):
    train(half(tracking={"tensorboard": True}, evaluation={"folder": str(base / "eval")}))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"base": "narrow"}}, "other tensors than the model"),
        ({"mining": {"depth": 5, "offset": 1}}, "other tensors than the hard negatives"),
        ({"hard_negatives": {"source": "bank"}}, "other tensors than the hard negatives"),
    ],
)
def test_a_change_that_no_checkpoint_fits_is_refused_even_where_changes_are_allowed(
    half, tmp_path, sections, words
):
    if sections.get("model", {}).get("base"):
        make_tiny_model("bert").save(tmp_path / "narrow")
        sections["model"]["base"] = str(tmp_path / "narrow")
    with pytest.raises(UserError, match=words):
        train(half(**sections), allow_changes=True)


def test_other_texts_under_a_checkpoint_are_refused(half, base, tmp_path):
    data = tmp_path / "pairs.jsonl"
    write(data, [{"query": "new", "positive": ["text"]}])
    rows = (base / "pairs.jsonl").read_text(encoding="utf-8")
    data.write_text(rows + data.read_text(encoding="utf-8"), encoding="utf-8")
    changed = half(data={"retrieval": [{"name": "pairs", "path": str(data)}]})
    with pytest.raises(UserError, match="step-00000005: the data changed since: texts, queries of 'pairs'"):
        train(changed, allow_changes=True)


@pytest.mark.parametrize("name", [f"model/{SHARD}", f"optimizer/{SHARD}", "negatives.safetensors"])
def test_a_damaged_checkpoint_is_named(half, tmp_path, name):
    step = tmp_path / "run" / "checkpoints" / "step-00000005"
    file = step / name
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"step-00000005/{name}: damaged"):
        train(half())
    file.unlink()
    with pytest.raises(UserError, match=f"step-00000005/{name}: no such file"):
        train(half())
    shutil.rmtree(step)
    assert len(lines(train(half()), "metrics")) == NUM_STEPS  # from the one before


def test_a_loss_that_is_not_finite_stops_the_run(recipe, base, tmp_path):
    shutil.copytree(base / "model", tmp_path / "broken")
    file = tmp_path / "broken" / "2_Dense" / "model.safetensors"
    tensors = load_file(file)
    tensors["linear.weight"][3, 3] = float("nan")
    save_file(tensors, file)
    wanted = recipe(model={"base": str(tmp_path / "broken")}, step={"num_negatives": 0})
    with pytest.raises(UserError) as error:
        train(wanted)
    for words in ("step 1: the loss is nan", "text ids of the step: ", "No checkpoint was written yet"):
        assert words in str(error.value)


def test_the_last_good_checkpoint_is_named_and_the_weights_in_it_are_finite(recipe, tmp_path):
    wanted = recipe(
        optimizer={"learning_rate": 1e30, "warmup_ratio": 0.0}, training={"checkpoint_every": 1, "steps": 8}
    )
    with pytest.raises(UserError, match=r"step \d+: the (loss|gradient norm) is (nan|inf)") as error:
        train(wanted)
    last = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert f"The last good checkpoint is {last}" in str(error.value)
    assert all(torch.isfinite(t).all() for t in load_file(last / "model" / SHARD).values())


def test_a_full_disk_is_said_and_older_checkpoints_stay(recipe, tmp_path, monkeypatch):
    """The limit on the size of a file stands for the end of the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    interrupt_at(monkeypatch, 6, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1])))
    try:
        with pytest.raises(UserError, match=r"step-00000006: cannot be written: .*File too large"):
            train(recipe())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    folder = tmp_path / "run" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-00000003"]
    monkeypatch.undo()
    assert len(lines(train(recipe()), "metrics")) == NUM_STEPS


def test_an_interrupted_start_does_not_leave_rankings_to_other_settings(recipe, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(mining={"offset": 4}))
    run = train(recipe())
    assert json.loads((run / "mining" / "mining.json").read_text())["settings"]["mining"]["offset"] == 1
    assert_same_run(run, train(recipe("fresh")))


def test_rankings_of_an_interrupted_start_are_used_again(recipe, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1, killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe())
    monkeypatch.setattr("conan_embed.negatives.prepare.mine", None)
    train(recipe())
