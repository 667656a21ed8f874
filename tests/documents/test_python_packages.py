"""Public names, signatures and order of the objects of a small package written for the purpose."""

import warnings
from pathlib import Path

from conan_embed.documents import python_packages
from conan_embed.documents.python_packages import STANDARD_LIBRARY, Package, installed_packages, read_package


def write(root: Path, files: dict[str, str], name: str = "shop") -> Package:
    for file, text in files.items():
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Package("shop", name, root)


SHOP = {
    "shop/__init__.py": '"""A shop with a till and a store."""\nfrom shop._till import Till as Till, count\n'
    "from .store import *\nfrom ._core import *\n",
    "shop/_till.py": '''
class Till:
    """A box for money."""

    def __init__(self, coins: int = 0, *, currency: "str" = "EUR"):
        """Not for the reader."""

    def open(self, key, /):
        """Open the box."""

    @property
    def total(self) -> int:
        """How much is inside."""

    @staticmethod
    def mint(value):
        """Make a coin."""

    def _count(self):
        """Private."""

def count(coins, by=1):
    """Count coins."""

def weigh(coins):
    """Nobody imports this."""

class _Drawer:
    """Private."""
''',
    "shop/store/__init__.py": '"""Goods on shelves."""\n__all__ = ["Shelf"]\n'
    'class Shelf:\n    """A shelf."""\nclass Board:\n    """Not listed."""\n',
    "shop/_core.py": '__all__ = ["scan"]\nfrom shop._scanner import scan, beep\n' + "#" * 5000,
    "shop/_scanner.py": 'def scan(x):\n    """Scan a code."""\ndef beep():\n    """Beep."""\n' + "#" * 5000,
    "shop/prices.py": 'try:\n    import x\nexcept ImportError:\n    def tax(n, rate=0.2) -> float:\n'
    '        """Add the tax."""\n',
    "shop/broken.py": "def broken(:\n",
    "shop/binary.py": "\0",
    "shop/tests/test_till.py": 'def test():\n    """A test."""\n',
    "shop/_vendor/other.py": 'def other():\n    """Another package."""\n',
}  # fmt: skip


def test_objects_go_by_their_public_names(tmp_path):
    objects = read_package(write(tmp_path, SHOP))
    found = {thing.name: (thing.kind, thing.signature, thing.summary) for thing in objects}
    assert found == {
        "shop": ("module", "", "A shop with a till and a store."),
        "shop.store": ("module", "", "Goods on shelves."),
        "shop.Shelf": ("class", "", "A shelf."),
        "shop.Till": ("class", "(coins: int = 0, *, currency: str = 'EUR')", "A box for money."),
        "shop.Till.open": ("method", "(key, /)", "Open the box."),
        "shop.Till.total": ("property", " -> int", "How much is inside."),
        "shop.Till.mint": ("method", "(value)", "Make a coin."),
        "shop.count": ("function", "(coins, by=1)", "Count coins."),
        "shop.scan": ("function", "(x)", "Scan a code."),
        "shop.prices.tax": ("function", "(n, rate=0.2) -> float", "Add the tax."),
    }


def test_module_and_line_are_where_an_object_is_defined(tmp_path):
    things = {thing.name: thing for thing in read_package(write(tmp_path, SHOP))}
    assert things["shop.Till.open"].module == ("shop", "_till")
    assert Path(things["shop.Till.open"].path).name == "_till.py"
    assert things["shop.Till.open"].line == 8
    assert things["shop.Till.open"].owner == things["shop.Till"].owner == "Till"
    assert things["shop.count"].owner == ""


def test_what_is_near_the_surface_comes_first(tmp_path, monkeypatch):
    inits = {f"shop/{folder}/__init__.py": "" for folder in ("a", "a/b")}
    deep = {f"shop/a/b/c{n}.py": f'def f{n}():\n    """Do {n}."""\n' for n in range(5)}
    package = write(tmp_path, SHOP | inits | deep)
    depths = [thing.name.count(".") for thing in read_package(package)]
    assert depths == sorted(depths)
    assert depths[-5:] == [4] * 5
    monkeypatch.setattr(python_packages, "MAX_FILES", 6)
    assert max(thing.name.count(".") for thing in read_package(package)) < 4


def test_long_signature_loses_annotations_then_arguments(tmp_path):
    def signature(count: int, annotation: str) -> str:
        arguments = ", ".join(f"argument_{n}{annotation}" for n in range(count))
        package = write(tmp_path, {"m.py": f'def f({arguments}):\n    """Do it."""\n'}, "m")
        return next(iter(read_package(package))).signature

    assert signature(2, ": int") == "(argument_0: int, argument_1: int)"
    assert signature(10, ": dict[str, int]") == "(" + ", ".join(f"argument_{n}" for n in range(10)) + ")"
    assert signature(50, "").endswith(", ...)")
    assert len(signature(50, "")) <= 170


def test_the_machine_has_a_standard_library_and_our_dependencies():
    packages = {package.name: package.distribution for package in installed_packages()}
    assert packages["json"] == packages["argparse"] == STANDARD_LIBRARY
    assert packages["numpy"] == "numpy"
    assert not packages.keys() & {"test", "idlelib", "conan_embed"}


def test_a_package_of_the_standard_library():
    package = next(package for package in installed_packages() if package.name == "json")
    objects = {thing.name: thing for thing in read_package(package)}
    assert objects["json.JSONDecoder"].module == ("json", "decoder")
    assert objects["json.dumps"].summary == "Serialize obj to a JSON formatted str."


def test_nothing_is_said_about_the_code_of_others(tmp_path: Path) -> None:
    package = write(
        tmp_path, {"shop/__init__.py": 'DIGITS = "\\d"\n\ndef open():\n    """Open the till."""\n'}
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert [thing.path for thing in read_package(package)]
    assert not said
