"""Work that is done once a node, shared out, or waited for; and how a group ends when one of it fails."""

import json
import os
import signal
import time
from dataclasses import fields, is_dataclass

import numpy as np
import polars as pl
import pytest
import torch

import conan_embed.training.setup as run_setup
from conan_embed.distributed import collectives, failures
from conan_embed.negatives import mining, prepare
from conan_embed.negatives.embedding import embed_with
from conan_embed.negatives.rankings import load_ranking
from conan_embed.recipes.schema import Recipe
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.tasks import Tasks
from conan_embed.training.setup import load_base_model, load_data
from tests.support.many_processes import start_world
from tests.tiny_models import SENTENCES, make_tiny_model

TIMEOUT = 2 / 60  # minutes
TEXTS = [text[start : start + 9] for text in SENTENCES for start in range(0, len(text), 3)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny model and data files."""
    folder = tmp_path_factory.mktemp("base")
    make_tiny_model("bert", dense_width=12, prompts={"query": "问："}).save(folder / "model")
    generator = np.random.default_rng(0)
    draw = lambda: str(generator.choice(TEXTS))  # noqa: E731
    # No number enters a passage: numbers are unknown words of the tiny model, and equal passages have no order.
    rows = [
        {"query": f"{draw()} {i}", "positive": [draw(), draw() + draw()], "negative": [draw()] * (i % 3)}
        for i in range(31)
    ]
    pl.DataFrame(rows).write_parquet(folder / "pairs.parquet")
    pl.DataFrame([{"text": f"{i} {draw()}", "label": i % 3} for i in range(12)]).write_parquet(
        folder / "classes.parquet"
    )
    sts = [{"text_a": draw(), "text_b": draw(), "score": float(i % 4)} for i in range(10)]
    pl.DataFrame(sts).write_parquet(folder / "sts.parquet")
    return folder


def recipe_of(base, cache):
    return Recipe.model_validate(
        {
            "model": {"base": str(base / "model")},
            "data": {
                "retrieval": [{"name": "pairs", "path": str(base / "pairs.parquet"), "weight": 2.0}],
                "classification": [{"name": "classes", "path": str(base / "classes.parquet")}],
                "sts": [{"name": "sts", "path": str(base / "sts.parquet")}],
            },
            "step": {"num_negatives": 3},
            "mining": {"depth": 7, "offset": 2, "precision": "float32", "max_positive_ratio": 0.999},
            "training": {"precision": "float32"},
            "cache": str(cache),
        }
    )


def plain(value):
    """Tasks, or a part of them, as what compares with ==."""
    if isinstance(value, Tasks):
        stored = [value.store.text(i) for i in range(len(value.store))], np.array(value.store.tokens)
        return plain([*stored, value.retrieval, value.sts])
    if isinstance(value, Ragged):
        return plain([value.values, value.offsets])
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.tolist()
    if isinstance(value, list):
        return [plain(item) for item in value]
    if is_dataclass(value):  # its fields, not what it has looked up since
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return {k: plain(v) for k, v in vars(value).items()} if hasattr(value, "__dict__") else value


# ------------------------------------------------------------------------------------- what each process does


def mine_into(folder, recipe, tasks, model):
    embed = embed_with(model, tasks.store, recipe.training.precision, recipe.training.chunk_tokens)
    prepare.make_rankings(tasks, embed, recipe.mining, prepare.identities(model, tasks.retrieval), folder)


def read_and_mine(base, folder, separate):
    """Read and tokenise as one of several nodes; mine, with the node's own run folder if its disk is separate."""
    collectives.start("cpu")
    node = int(os.environ["GROUP_RANK"]) if separate else 0
    recipe = recipe_of(base, folder / f"disk{node}" / "cache")
    calls = {"read": 0, "tokenise": 0, "searched": 0, "saved": 0}
    model = load_base_model(recipe.model, recipe.training.seed)

    def counted(name, original, size=lambda *_: 1):
        def call(*arguments, **settings):
            calls[name] += size(*arguments)
            return original(*arguments, **settings)

        return call

    model.tokenize = counted("tokenise", model.tokenize)
    run_setup.load_tasks = counted("read", run_setup.load_tasks)
    mining.top_k = counted("searched", mining.top_k, lambda queries, *_: len(queries))
    prepare.save_ranking = counted("saved", prepare.save_ranking)
    tasks = load_data(recipe.data, recipe.cache, model)
    mine_into(folder / f"disk{node}" / "mining", recipe, tasks, model)
    calls["arrays"] = plain(tasks)
    (folder / f"{collectives.rank()}.json").write_text(json.dumps(calls))


def wait_and_die(folder, who, how):
    """Process `who` dies or falls silent, after a wait longer than the timeout; who finds out says so and ends."""
    collectives.start("cpu", timeout=TIMEOUT)
    if collectives.rank() == 0:
        time.sleep(60 * TIMEOUT + 1)  # alone, and longer than any collective may take
    collectives.barrier()
    started = time.monotonic()
    if collectives.rank() == who:
        if how.startswith("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60 * TIMEOUT + 30)
    try:
        if how.endswith("waiting"):
            collectives.barrier()
        else:
            rows = torch.ones(1, 2, requires_grad=True)
            collectives.all_gather_rows(rows, [1, 1, 1]).sum().backward()
    except Exception as error:
        said = {
            "error": str(error),
            "lost": failures.is_peer_failure(error),
            "after": time.monotonic() - started,
        }
        failures.exit_all(1, lambda: (folder / f"{collectives.rank()}.json").write_text(json.dumps(said)))


# --------------------------------------------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def one_process(base, tmp_path_factory):
    """Tasks and rankings of one process."""
    folder = tmp_path_factory.mktemp("one")
    recipe = recipe_of(base, folder / "cache")
    model = load_base_model(recipe.model, recipe.training.seed)
    tasks = load_data(recipe.data, recipe.cache, model)
    mine_into(folder / "mining", recipe, tasks, model)
    return tasks, folder / "mining"


@pytest.mark.parametrize(
    ("node_sizes", "separate"), [((2, 2), True), ((2, 2), False), ((1, 1), True), ((3,), False)]
)
def test_one_process_of_a_node_reads_and_all_search(base, one_process, tmp_path, node_sizes, separate):
    tasks, expected = one_process
    size = sum(node_sizes)
    assert start_world(size, read_and_mine, base, tmp_path, separate, node_sizes=node_sizes) == [0] * size
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(size)]
    firsts = np.cumsum([0, *node_sizes])[:-1].tolist()
    for rank, calls in enumerate(found):
        assert calls["read"] == (rank in firsts)
        assert (calls["tokenise"] > 0) <= (rank in firsts)
        assert calls["arrays"] == json.loads(json.dumps(plain(tasks)))
        # Rankings are written once, and once more on each disk that does not see the first.
        assert calls["saved"] == (rank == 0 or (separate and rank in firsts))
    assert any(found[rank]["tokenise"] for rank in firsts)  # on a shared disk either may be the first
    searched = [calls["searched"] for calls in found]
    assert sum(searched) == 31
    assert max(searched) - min(searched) <= 1
    for node in range(len(node_sizes) if separate else 1):
        disk = tmp_path / f"disk{node}"
        stores, shared = list((disk / "cache" / "texts").iterdir()), list((disk / "cache").glob("tasks/*"))
        assert len(stores) == 1
        assert len(shared) == (max(node_sizes) > 1)
        assert not list(disk.rglob("*.tmp"))
        mined = load_ranking(disk / "mining", tasks.retrieval[0], tasks.store)
        alone = load_ranking(expected, tasks.retrieval[0], tasks.store)
        np.testing.assert_array_equal(mined.ids_QK, alone.ids_QK)
        np.testing.assert_allclose(mined.scores_QK, alone.scores_QK, rtol=0, atol=1e-6)
        np.testing.assert_allclose(mined.positive_Q, alone.positive_Q, rtol=0, atol=1e-6)
        assert bounded_out(disk / "mining") == bounded_out(expected) > 0


def bounded_out(folder):
    return json.loads((folder / "mining.json").read_text())["datasets"]["pairs"]["bounded_out"]


def test_a_store_that_another_node_has_written_meanwhile_stays(base, tmp_path, monkeypatch):
    recipe = recipe_of(base, tmp_path / "cache")
    model = load_base_model(recipe.model, recipe.training.seed)
    written = []

    def tokenize(texts):  # the other node begins later and is done first
        monkeypatch.setattr("socket.gethostname", lambda: "other")
        other = load_base_model(recipe.model, recipe.training.seed)
        written.append(load_data(recipe.data, recipe.cache, other).store.folder / "tokens.npy")
        written.append(written[0].stat().st_ino)
        return type(model).tokenize(model, texts)

    model.tokenize = tokenize
    tasks = load_data(recipe.data, recipe.cache, model)
    assert tasks.store.folder == written[0].parent
    assert written[0].stat().st_ino == written[1]
    assert list((tmp_path / "cache" / "texts").iterdir()) == [written[0].parent]


@pytest.mark.parametrize(
    "how", ["killed, others waiting", "killed, others gathering", "silent, others gathering"]
)
def test_a_process_that_is_gone_ends_all(tmp_path, how):
    who = 1
    codes = start_world(3, wait_and_die, tmp_path, who, how)
    # One that is silent but alive is told by the others to end.
    assert codes == [1, -signal.SIGKILL if how.startswith("killed") else 1, 1]
    (said,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))  # one finds out first
    assert said["lost"]
    if how.endswith("waiting"):
        assert f"process {who} sent no heartbeat for" in said["error"]
    assert said["after"] < 60 * TIMEOUT + 8
