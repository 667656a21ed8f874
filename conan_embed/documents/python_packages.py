"""Read the documented public objects of installed Python packages; import nothing.

griffe parses the source files and follows their imports. Much is defined in modules with a leading underscore and
re-exported (`sklearn.linear_model.LogisticRegression` is written in `sklearn/linear_model/_logistic.py`), so an object
goes by the shortest public name under which a user meets it. Of a large package only the files nearest to its surface
are read: parsing everything that is installed takes minutes.
"""

import logging
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeGuard

import griffe
import xxhash

from conan_embed.documents.docstrings import read_docstring

STANDARD_LIBRARY = "standard library"
MAX_FILES = 250  # read of one package
_SIGNATURE_CHARACTERS = 160
# Folders without API of the package in which they are: tests, copies of other packages, programs.
_SKIPPED = re.compile(
    r"tests?|testing|testdata|_?vendor(?:ed)?|third_party|externals?|examples?|benchmarks|docs|idlelib|lib2to3|ensurepip"
    r"|turtledemo|pydoc_data|conftest|setup|__main__|test_.*|.*_test|.*_pb2(?:_grpc)?|.*\d_\d.*"
)
logging.getLogger("griffe").setLevel(logging.CRITICAL)  # which docstrings of other people are malformed


@dataclass(frozen=True)
class Package:
    """An importable package: its distribution, its name, and the folder in which it is."""

    distribution: str
    name: str
    folder: Path

    @property
    def path(self) -> Path:
        """Its folder, or its one file."""
        folder = self.folder / self.name
        return folder if folder.is_dir() else folder.with_suffix(".py")


def package_at(path: Path) -> Package:
    """Return the package whose `path` this is, without its distribution."""
    return Package("", path.stem, path.parent)


@dataclass(frozen=True)
class PythonObject:
    """A documented public module, class, function, method or property.

    Attributes:
        name: the public dotted name.
        kind: module, class, function, method or property.
        signature: "(arguments) -> type", shortened; "" where there is none.
        summary, rest: the docstring, see `docstrings.read_docstring`.
        package: the distribution.
        module: the parts of the dotted name of the module in which it is defined.
        owner: the class to which it belongs (for a class its own name), else "".
        path, line: where it is defined.
    """

    name: str
    kind: str
    signature: str
    summary: str
    rest: str
    package: str
    module: tuple[str, ...]
    owner: str
    path: str = ""
    line: int = 0


def installed_packages() -> list[Package]:
    """List the modules of the standard library and the packages of every installed distribution, sorted."""
    packages = {}
    for name, distributions in metadata.packages_distributions().items():
        distribution = sorted(distributions)[0]
        folder = Path(str(metadata.distribution(distribution).locate_file("")))
        # This package is left out: a checkout and an installation should give the same.
        package = Package(distribution, name, folder)
        is_ours = distribution.lower() == "conan-embed"
        if not is_ours and name.isidentifier() and not _is_skipped(name) and package.path.exists():
            packages[name] = package
    root = Path(sysconfig.get_path("stdlib"))
    for name in sys.stdlib_module_names:
        if not _is_skipped(name) and (root / name).with_suffix(".py").exists() | (root / name).is_dir():
            packages[name] = Package(STANDARD_LIBRARY, name, root)
    public = [package for package in packages.values() if not package.name.startswith("_")]
    return sorted(public, key=lambda package: (package.distribution.lower(), package.name))


def _is_skipped(name: str) -> bool:
    return _SKIPPED.fullmatch(name) is not None


def read_package(package: Package) -> Iterator[PythonObject]:
    """Yield the documented public objects of a package, those nearest to its surface first.

    Of equal depth the order is random, and the same every time. A file that cannot be parsed is skipped. Docstrings are
    read one by one, so stopping early saves time.
    """
    loader = griffe.GriffeLoader(search_paths=[package.folder], allow_inspection=False, store_source=False)
    loader.finder = _ShallowFinder([package.folder])
    try:
        # Other people's code has \d and the like in its strings, which Python 3.12 warns about.
        with warnings.catch_warnings(action="ignore"):
            module = loader.load(package.name, try_relative_path=False)
        loader.resolve_aliases(implicit=True, external=False)
    except (ImportError, griffe.GriffeError, RecursionError, ValueError):
        return
    assert isinstance(module, griffe.Module)
    public = _public_names(module)
    documented = {public[thing.path]: thing for thing in _documented(module, public)}
    for name in sorted(documented, key=lambda name: (name.count("."), _order(documented[name]), name)):
        yield _describe(name, documented[name], package.distribution)


class _ShallowFinder(griffe.ModuleFinder):
    """Finds the source files of a package that are nearest to its surface, without tests and copies."""

    def submodules(self, module: griffe.Module) -> list[tuple[tuple[str, ...], Path]]:
        files = [
            (parts, path)
            for parts, path in super().submodules(module)
            if path.suffix == ".py" and not any(map(_is_skipped, parts))
        ]
        return files[:MAX_FILES]


def _public_names(module: griffe.Module) -> dict[str, str]:
    """Map the path of each class, function and module to its shortest public name."""
    names: dict[str, str] = {}
    for path, target in _exported(module):
        best = names.get(target, path)
        names[target] = min(best, path, key=lambda name: (name.count("."), len(name), name))
    return names


def _exported(module: griffe.Module) -> Iterator[tuple[str, str]]:
    """Yield the public name and the path of everything that a module and its public submodules show."""
    yield module.path, module.path
    for name, member in module.members.items():
        if name.startswith("_"):
            continue
        if member.is_alias:
            if _is_exported(module, name) and (target := _target(member)):
                yield f"{module.path}.{name}", target
        elif isinstance(member, griffe.Module):
            yield from _exported(member)
        elif module.exports is None or name in _export_names(module):
            yield f"{module.path}.{name}", member.path


def _is_exported(module: griffe.Module, name: str) -> bool:
    """Return whether an imported name is meant to be found there: listed, or imported by a package's `__init__`."""
    return module.is_init_module if module.exports is None else name in _export_names(module)


def _export_names(module: griffe.Module) -> set[str]:
    return {str(getattr(export, "name", export)) for export in module.exports or ()}


def _target(alias: griffe.Object | griffe.Alias) -> str | None:
    try:
        return alias.final_target.path if isinstance(alias, griffe.Alias) else alias.path
    except griffe.GriffeError:
        return None


def _documented(module: griffe.Module, public: dict[str, str]) -> Iterator[griffe.Object]:
    """Yield the documented objects to which a public name leads; members of a class inherit its name."""
    if module.path in public and module.docstring:
        yield module
    for member in module.members.values():
        if isinstance(member, griffe.Module):
            yield from _documented(member, public)
        elif isinstance(member, griffe.Class | griffe.Function) and member.path in public:
            if member.docstring:
                yield member
            for name, inner in member.members.items() if isinstance(member, griffe.Class) else ():
                if not name.startswith("_") and inner.docstring and _is_callable(inner):
                    public[inner.path] = f"{public[member.path]}.{name}"
                    yield inner


def _is_callable(member: griffe.Object | griffe.Alias) -> TypeGuard[griffe.Object]:
    return not member.is_alias and (member.is_function or "property" in member.labels)


def _describe(name: str, thing: griffe.Object, distribution: str) -> PythonObject:
    assert thing.docstring is not None
    documentation = read_docstring(thing.docstring)
    parent = thing if isinstance(thing, griffe.Class) else thing.parent
    return PythonObject(
        name=name,
        kind=_kind(thing),
        signature=_signature(thing),
        summary=documentation.summary,
        rest=documentation.rest,
        package=distribution,
        module=tuple(thing.module.path.split(".")),
        owner=parent.name if isinstance(parent, griffe.Class) else "",
        path=str(thing.filepath),
        line=thing.lineno or 1,
    )


def _kind(thing: griffe.Object) -> str:
    if "property" in thing.labels:
        return "property"
    is_method = thing.is_function and isinstance(thing.parent, griffe.Class)
    return "method" if is_method else thing.kind.value


def _signature(thing: griffe.Object) -> str:
    """Return "(arguments) -> type", of a class the arguments of `__init__`; where that is long, only the names."""
    if isinstance(thing, griffe.Attribute):
        return f" -> {thing.annotation}" if thing.annotation else ""
    function = thing.members.get("__init__") if isinstance(thing, griffe.Class) else thing
    if not isinstance(function, griffe.Function):
        return ""
    whole = function.signature(name=" ", return_type=function is thing).strip()
    if len(whole) <= _SIGNATURE_CHARACTERS:
        return whole
    names = [parameter.name for parameter in function.parameters if parameter.name not in ("self", "cls")]
    short = f"({', '.join(names)})"
    is_short = len(short) <= _SIGNATURE_CHARACTERS
    return short if is_short else short[:_SIGNATURE_CHARACTERS].rpartition(",")[0] + ", ...)"


def _order(thing: griffe.Object) -> tuple[int, int]:
    return xxhash.xxh3_64_intdigest(thing.module.path.encode()), thing.lineno or 0
