"""The front door: public names, imported when they are used."""

import subprocess
import sys
from pathlib import Path

import pytest

import conan_embed as ce

HEAVY = ("torch", "transformers", "polars", "numpy", "pydantic")


def fresh_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = fresh_python("import conan_embed, sys; print(*sys.modules)").split()
    assert not {*HEAVY} & {*loaded}


def test_every_public_name_is_listed_and_resolves() -> None:
    names = fresh_python("import conan_embed as ce; print(*(n for n in dir(ce) if n in ce.__all__))").split()
    assert names == sorted(ce.__all__)
    assert all(getattr(ce, name).__name__ == name for name in ce.__all__)


def test_type_checkers_see_the_same_names() -> None:
    source = Path(ce.__file__).read_text(encoding="utf-8")
    imported = {
        line.split(" as ")[1] for line in source.splitlines() if line.startswith("    from conan_embed.")
    }
    assert imported == {*ce.__all__}


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ce.trian  # noqa: B018
