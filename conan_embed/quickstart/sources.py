"""Read the documented public objects of installed Python packages from their source files; import nothing.

`installed_packages` lists the standard library and every installed distribution with its modules. `read_package`
turns one of them into `PythonObject`s: `ast` parses a file, `docstrings` cleans what is written there.

Objects go by the name under which a user meets them. Much is defined in modules whose names begin with an underscore
and re-exported (`sklearn.linear_model.LogisticRegression` is written in `sklearn/linear_model/_logistic.py`), so
`Exports` follows the import statements of a package, gives each definition its shortest public name, and leaves out
what has none. The same names say which files are worth reading: the ones nearest to the surface first, the ones that
no public name leads into never. That is most of the speed: parsing everything that is installed takes a minute.
"""

import ast
import contextlib
import gc
import re
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import xxhash

from conan_embed.quickstart.docstrings import read_docstring

STANDARD_LIBRARY = "standard library"

# Folders that hold no API of the package they lie in: tests, copies of other packages, programs.
_SKIPPED_FOLDERS = frozenset(
    """
    test tests testdata idlelib lib2to3 site-packages dist-packages ensurepip turtledemo pydoc_data __pycache__
    _vendor _vendored vendor vendored third_party extern externals example examples benchmarks docs
    """.split()  # noqa: SIM905
)
_SKIPPED_FILES = re.compile(
    r"(?:test_.*|.*_test|.*_pb2|.*_pb2_grpc|conftest|testing_utils|setup|__main__)\.py"
)
_GENERATED = re.compile(  # said in a comment or at the start of a docstring, near the top of the file
    rb"""^(?:\#|\"{3}|'{3}).*
    (?:@generated|do\ not\ (?:manually\ )?(?:edit|modify)|auto(?:matically)?[- ]?generated|generated\ by)""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
# Modules that give docstrings to objects of extensions, by calls: numpy._core._add_newdocs, torch._torch_docs.
_DOCUMENTING_MODULE = re.compile(r"(?:^|_)(?:add_new)?docs$")
_DOCUMENTING_CALL = re.compile(r"_?add_(?:new)?doc(?:str)?")
# Beside the __init__ files, small modules can be there to re-export: decimal.py is five lines.
_SMALL_MODULE_BYTES = 4_000
_SIGNATURE_CHARACTERS = 160


@dataclass(frozen=True)
class Package:
    """A distribution: its name and its modules, dotted name and file, sorted."""

    name: str
    modules: tuple[tuple[str, Path], ...]


@dataclass(frozen=True)
class PythonObject:
    """A documented public module, class, function, method or property.

    `place` is where it is defined: the parts of the module's dotted name; `owner` is the class it belongs to ("" for
    what stands in a module, the class's own name for a class). `name` is its public name.
    """

    name: str
    kind: str
    signature: str
    summary: str
    rest: str
    package: str
    place: tuple[str, ...]
    owner: str


@dataclass
class Reading:
    """What `read_package` found: the objects, nearest to the surface first, and how many files it took."""

    package: str
    objects: list[PythonObject] = field(default_factory=list)
    files_read: int = 0
    files_skipped: int = 0


# What is installed ------------------------------------------------------------------------------------------------


def installed_packages() -> list[Package]:
    """List the standard library and every installed distribution that has Python modules, sorted by name."""
    packages = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        # The first on the path is the one that is imported. We are not there: whether a checkout or an installation
        # runs this should make no difference.
        if name is None or name.lower() in packages or name.lower() == "conan-embed":
            continue
        files = [file for file in distribution.files or [] if file.suffix == ".py"]
        modules = {_module_name(file.parts): Path(str(distribution.locate_file(file))) for file in files}
        packages[name.lower()] = Package(name, _sorted_modules(modules))
    root = Path(sysconfig.get_path("stdlib"))
    modules = {_module_name(file.relative_to(root).parts): file for file in root.rglob("*.py")}
    packages[STANDARD_LIBRARY] = Package(STANDARD_LIBRARY, _sorted_modules(modules))
    return [packages[name] for name in sorted(packages) if packages[name].modules]


def folder_package(name: str, root: Path) -> Package:
    """Take the modules under `root`, a folder that could stand on `sys.path`, as one package."""
    return Package(
        name, _sorted_modules({_module_name(f.relative_to(root).parts): f for f in root.rglob("*.py")})
    )


def _module_name(parts: Sequence[str]) -> str:
    """Return the dotted name of the module in this file, or "" where it is none or none that we want."""
    *folders, file = parts
    if not _SKIPPED_FOLDERS.isdisjoint(folders) or _SKIPPED_FILES.fullmatch(file):
        return ""
    names = folders if file == "__init__.py" else [*folders, file.removesuffix(".py")]
    return ".".join(names) if names and all(name.isidentifier() for name in names) else ""


def _sorted_modules(modules: dict[str, Path]) -> tuple[tuple[str, Path], ...]:
    return tuple(sorted((name, file) for name, file in modules.items() if name))


# Reading ----------------------------------------------------------------------------------------------------------


def read_package(
    package: Package, enough: int, keep: Callable[[PythonObject], bool] = lambda thing: True
) -> Reading:
    """Read the documented public objects of a package until there are `enough`.

    Modules are read from the surface inwards (by the depth of the public names that they define, then in an order
    that is random and the same every time), so that what is left out is the deepest part. `keep(object)` says which
    objects count. A name is taken once, at its first docstring. A file that cannot be read or parsed is skipped
    and counted.
    """
    with _no_collection():
        return _read_package(package, enough, keep)


def _read_package(package: Package, enough: int, keep: Callable[[PythonObject], bool]) -> Reading:
    reading = Reading(package.name)
    files = dict(package.modules)
    trees: dict[str, ast.Module] = {}

    def parse(module: str) -> ast.Module | None:
        if module in files:
            tree = _parse(files.pop(module))
            if tree is None:
                reading.files_skipped += 1
            else:
                reading.files_read += 1
                trees[module] = tree
        return trees.get(module)

    exports = Exports()
    packages = {module for module, file in package.modules if file.name == "__init__.py"}
    hubs = [module for module, file in package.modules if module in packages or _is_small(file)]
    added: set[str] = set()
    while hubs:
        for module in hubs:
            if (tree := parse(module)) is not None:
                exports.add(module, tree, is_package=module in packages)
        added.update(hubs)
        hubs = [module for module in exports.imported_whole() if module not in added]
    depths = {module: exports.depth(module) for module, _ in package.modules}
    ranked = sorted(
        (depth, xxhash.xxh3_64_intdigest(module.encode()), module)
        for module, depth in depths.items()
        if depth is not None
    )
    seen: set[str] = set()
    for _, _, module in ranked:
        if len(reading.objects) >= enough:
            break
        tree = parse(module)
        if tree is None:
            continue
        for thing in _documented_objects(module, tree, package.name, exports):
            if thing.name not in seen:
                seen.add(thing.name)
                if keep(thing):
                    reading.objects.append(thing)
        trees.pop(module, None)
    del reading.objects[enough:]
    return reading


def _is_small(file: Path) -> bool:
    try:
        return file.stat().st_size < _SMALL_MODULE_BYTES
    except OSError:
        return True  # reading it will count it as skipped


def _parse(file: Path) -> ast.Module | None:
    try:
        source = file.read_bytes()
        if _GENERATED.search(source[:1000]):
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            return ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the collector of cycles out: trees have none, and its looking for them is a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _documented_objects(
    module: str, tree: ast.Module, package: str, exports: "Exports"
) -> Iterator[PythonObject]:
    """Yield what the module documents and a public name leads to, in the order of the file."""
    place = tuple(module.split("."))
    listed = _listed_names(tree)

    def make(
        name: str, kind: str, docstring: str | None, signature: str, owner: str = ""
    ) -> Iterator[PythonObject]:
        if docstring and docstring.strip():
            documentation = read_docstring(docstring)
            # Written by hand for people: shorter than the annotations of the code, and there for C as well.
            head, bracket, arguments = documentation.signature.partition("(")
            if head.rpartition(".")[2] == name.rpartition(".")[2]:
                signature = _shorten([bracket + arguments])
            yield PythonObject(
                name, kind, signature, documentation.summary, documentation.rest, package, place, owner
            )

    if _is_public(module):
        yield from make(module, "module", ast.get_docstring(tree, clean=False), "")
    for node in _statements(tree.body):
        if isinstance(node, ast.ClassDef):
            name = exports.public_name(module, node.name, listed)
            if name is None:
                continue
            yield from make(
                name, "class", ast.get_docstring(node, clean=False), _class_signature(node), node.name
            )
            for member in _statements(node.body):
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and _is_public(member.name):
                    kind = "property" if _is_property(member) else "method"
                    signature = _returned(member) if kind == "property" else _signature(member, method=True)
                    docstring = ast.get_docstring(member, clean=False)
                    yield from make(f"{name}.{member.name}", kind, docstring, signature, node.name)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name = exports.public_name(module, node.name, listed)
            if name is not None:
                yield from make(name, "function", ast.get_docstring(node, clean=False), _signature(node))
        else:
            for defined_in, target, described in _documenting_calls(module, node):
                name = exports.public_name(defined_in, target) or exports.surface_name(defined_in, target)
                if name is not None:
                    owner, dot, _ = target.rpartition(".")
                    yield from make(name, "method" if dot else "function", described, "", owner)


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements, also the ones under `if`, `try` and `with`: definitions by version, type checking."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _statements([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            yield from _statements([*node.body, *node.orelse, *handlers])
        elif isinstance(node, ast.With):
            yield from _statements(node.body)
        else:
            yield node


def _is_public(dotted: str) -> bool:
    return not dotted.startswith("_") and "._" not in dotted


def _documenting_calls(module: str, node: ast.stmt) -> Iterator[tuple[str, str, str]]:
    """Yield (module, name in it, docstring) of calls that document objects of an extension.

    Three forms are in use: `add_docstr(torch.abs, "...")`, `conv1d = _add_docstr(torch.conv1d, "...")` and
    `add_newdoc("numpy._core", "flatiter", ("base", "..."))`.
    """
    if not isinstance(node, ast.Expr | ast.Assign) or not isinstance(call := node.value, ast.Call):
        return
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if not _DOCUMENTING_CALL.fullmatch(function) or len(call.args) < 2:
        return
    first, second, *others = call.args
    if isinstance(node, ast.Assign):
        if isinstance(node.targets[0], ast.Name) and (text := _string(second)):
            yield module, node.targets[0].id, text
    elif isinstance(first, ast.Attribute) and (text := _string(second)):
        owner, _, last = ast.unparse(first).rpartition(".")
        yield owner, last, text
    elif others and (where := _string(first)) and (name := _string(second)):
        documented = others[0].elts if isinstance(others[0], ast.List) else [others[0]]
        for item in documented:
            if isinstance(item, ast.Tuple) and len(item.elts) == 2:
                attribute, described = _string(item.elts[0]), _string(item.elts[1])
                if attribute and described and _is_public(attribute):
                    yield where, f"{name}.{attribute}", described
            elif itself := _string(item):
                yield where, name, itself


def _string(node: ast.expr) -> str | None:
    """Return the text of a string expression; places to be filled in by `format` or `%` stay as they are."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return _string(node.func.value)
    if isinstance(node, ast.BinOp):
        left = _string(node.left)
        right = _string(node.right) if isinstance(node.op, ast.Add) else ""
        return None if left is None or right is None else left + right
    return None


# Signatures -------------------------------------------------------------------------------------------------------


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, method: bool = False) -> str:
    """Return "(arguments) -> type"; where that is long without annotations, and cut where it still is."""
    arguments = node.args
    if method and not any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list):
        for first in (arguments.posonlyargs, arguments.args):
            if first:
                del first[0]
                break
    returned = _returned(node)
    forms = [f"({ast.unparse(arguments)}){returned}"]
    if len(forms[0]) > _SIGNATURE_CHARACTERS:
        every = [
            *arguments.posonlyargs,
            *arguments.args,
            *arguments.kwonlyargs,
            arguments.vararg,
            arguments.kwarg,
        ]
        for argument in every:
            if argument is not None:
                argument.annotation = None
        forms.append(f"({ast.unparse(arguments)})")
    return _shorten(forms)


def _shorten(forms: Sequence[str]) -> str:
    """Return the first form that is short enough, or the last one, cut between two arguments."""
    for form in forms:
        if len(form) <= _SIGNATURE_CHARACTERS:
            return form
    return forms[-1][:_SIGNATURE_CHARACTERS].rpartition(",")[0] + ", ...)"


def _returned(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return "" if node.returns is None else " -> " + ast.unparse(node.returns).strip("'\"")


def _class_signature(node: ast.ClassDef) -> str:
    """Return the arguments that make an instance: those of `__init__` or `__new__`, or the fields of a data class."""
    members = {member.name: member for member in node.body if isinstance(member, ast.FunctionDef)}
    for name in ("__init__", "__new__"):
        if name in members:
            signature, _, _ = _signature(members[name], method=True).partition(" -> ")
            return signature
    hints = " ".join(ast.unparse(expression) for expression in [*node.decorator_list, *node.bases])
    if re.search(r"dataclass|NamedTuple|BaseModel|TypedDict|attrs?\.|\bdefine\b", hints):
        fields = [
            f.target.id for f in node.body if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)
        ]
        return _shorten(["(" + ", ".join(name for name in fields if _is_public(name)) + ")"])
    return ""


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(decorator).lower() for decorator in node.decorator_list)


# Public names -----------------------------------------------------------------------------------------------------


class Exports:
    """Where definitions of a package are visible, by its import statements.

    A map from (module, name) to the places that import it from there, and from a module to those that import all of
    it. A name's public names are all places reachable through these that have no leading underscore in any part.
    """

    def __init__(self) -> None:
        self._by_name: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        self._names: dict[str, set[str]] = defaultdict(set)
        self._by_star: dict[str, list[str]] = defaultdict(list)
        self._visible: set[tuple[str, str]] = set()

    def add(self, module: str, tree: ast.Module, is_package: bool) -> None:
        """Take in the import statements of a module; what a plain module imports counts if its `__all__` says so."""
        listed = _listed_names(tree)
        parts = module.split(".") if is_package else module.split(".")[:-1]
        for node in _statements(tree.body):
            if not isinstance(node, ast.ImportFrom) or node.level > len(parts) + 1:
                continue
            above = parts[: len(parts) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for imported in node.names:
                alias = imported.asname or imported.name
                if imported.name == "*":
                    self._by_star[source].append(module)
                elif alias in listed if listed is not None else is_package:
                    self._by_name[source, imported.name].append((module, alias))
                    self._names[source].add(imported.name)
                    self._visible.add((module, alias))

    def imported_whole(self) -> list[str]:
        """Return the modules that others import with a star: what these import and list in `__all__` goes on too."""
        return sorted(self._by_star)

    def public_name(self, module: str, name: str, listed: frozenset[str] | None = None) -> str | None:
        """Return the shortest public dotted name of `name` defined in `module`, or None where there is none.

        `listed` is the module's `__all__`: what it does not list is public only where another module imports it by
        name. `name` may be `Class.method`.
        """
        head, dot, tail = name.partition(".")
        found, waiting = {(module, head)}, [(module, head)]
        offered = {(module, head)} if listed is None or head in listed else set()
        while waiting:
            place, alias = waiting.pop()
            above = list(self._by_name.get((place, alias), ()))
            if not alias.startswith("_") and (place != module or (module, head) in offered):
                above += [(user, alias) for user in self._by_star.get(place, ())]
            for step in above:
                offered.add(step)
                if step not in found:
                    found.add(step)
                    waiting.append(step)
        names = [f"{place}.{alias}" for place, alias in offered if _is_public(f"{place}.{alias}")]
        return (
            min(names, key=lambda dotted: (dotted.count("."), len(dotted), dotted)) + dot + tail
            if names
            else None
        )

    def surface_name(self, module: str, name: str) -> str | None:
        """Return the name at the top of the module's package, where that shows one that is called so."""
        top, head = module.partition(".")[0], name.partition(".")[0]
        return f"{top}.{name}" if (top, head) in self._visible else None

    def depth(self, module: str) -> int | None:
        """Return how far below the surface a module's shallowest public names are; None if it has none.

        It is the number of dots in such a name; one less for a module that its own package imports by name, as
        `torch.nn` does with `functional` and `init`: it is meant to be found there.
        """
        if _DOCUMENTING_MODULE.search(module):
            return 1
        # "any" stands for a name that is not imported on its own, but may be by a star.
        depths = [
            dotted.count(".")
            for name in ("any", *self._names.get(module, ()))
            if (dotted := self.public_name(module, name))
        ]
        if _is_public(module):
            package, _, name = module.rpartition(".")
            depths.append(module.count(".") + 1 - ((package, name) in self._visible))
        return min(depths, default=None)


def _listed_names(tree: ast.Module) -> frozenset[str] | None:
    """Return the names in the module's `__all__`, or None where it has none or computes it."""
    names: set[str] = set()
    found = False
    for node in _statements(tree.body):
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value):
                pass
            case ast.AugAssign(target=ast.Name(id="__all__"), value=value):
                pass
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="__all__")), args=[value])):
                pass
            case _:
                continue
        found = True
        items = value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
        texts = [_string(item) for item in items]
        if any(text is None for text in texts):
            return None
        names.update(text for text in texts if text is not None)
    return frozenset(names) if found else None
