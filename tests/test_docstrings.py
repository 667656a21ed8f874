"""Every example in a docstring runs and shows what it says; every public name has one."""

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import conan_embed as ce
from conan_embed import objectives
from tests.support.docs import MODEL, hub_with_bundled_model, write_evaluation, write_faq

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
LOSSES = [name for name in objectives.__all__ if callable(getattr(objectives, name))]
# What a function returns has its example there.
RESULTS = {
    "Comparison": "compare",
    "EvaluationResult": "evaluate",
    "objectives.InfoNCE": "objectives.infonce",
}
NOT_EXAMPLES = {"conan_embed.documents.docstrings"}  # reads other people's docstrings, and quotes them


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = pkgutil.walk_packages(ce.__path__, "conan_embed.")
    return [
        test
        for name in ["conan_embed", *(module.name for module in modules if module.name not in NOT_EXAMPLES)]
        if not name.endswith("__main__") and ">>>" in _source(name)
        for test in finder.find(importlib.import_module(name), name)
        if test.examples
    ]


def _source(name: str) -> str:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with hub_with_bundled_model(tmp_path_factory.mktemp("hub")):
        yield {"ce": ce, "np": np, "torch": torch, "model": ce.load_model(MODEL)}


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name.removeprefix("conan_embed."))
def test_example_shows_what_it_says(
    example: doctest.DocTest, surroundings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_faq(tmp_path)
    write_evaluation(tmp_path)
    monkeypatch.chdir(tmp_path)
    example.globs.update(surroundings)
    torch.manual_seed(0)
    output: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=FLAGS).run(example, out=output.append)
    assert not failed, "".join(output)


def public_objects() -> list[Any]:
    names = [getattr(ce, name) for name in ce.__all__] + [getattr(objectives, name) for name in LOSSES]
    return [
        value
        for thing in names
        for value in (thing, *_own_methods(thing))
        if not (inspect.isclass(thing) and issubclass(thing, Exception) and value is not thing)
    ]


def _own_methods(thing: Any) -> list[Any]:
    if not inspect.isclass(thing):
        return []
    raw = [value for name, value in vars(thing).items() if not name.startswith("_")]
    callables = [getattr(value, "__func__", getattr(value, "fget", value)) for value in raw]
    return [
        value
        for value in callables
        if inspect.isfunction(value) and value.__module__.startswith("conan_embed")
    ]


@pytest.mark.parametrize("thing", public_objects(), ids=lambda thing: thing.__qualname__)
def test_public_name_is_documented(thing: Any) -> None:
    assert thing.__doc__ and thing.__doc__.strip()


@pytest.mark.parametrize("name", [*ce.__all__, *(f"objectives.{name}" for name in LOSSES)])
def test_public_name_has_an_example(name: str) -> None:
    thing = ce
    for part in RESULTS.get(name, name).split("."):
        thing = getattr(thing, part)
    methods = "".join(method.__doc__ or "" for method in _own_methods(thing))
    assert ">>>" in (thing.__doc__ or "") + methods
