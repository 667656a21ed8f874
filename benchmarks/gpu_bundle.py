"""One folder with everything to measure on a GPU machine that has no network; below 62 MiB together with the checkout.

    python -m benchmarks.gpu_bundle make gpu-bundle --base MODEL --data DATA
    sh benchmarks/gpu_run.sh measure                # there, in the checkout; see docs/gpu.md

With --with-code the folder is carried alone: `sh FOLDER/run.sh measure`.

What the machine must have: Python 3.12, torch 2.11, transformers 5.17, sentence-transformers 6.0 and what they bring.
In the folder: the other packages, unpacked from their wheels (`pip download`) and packed again with LZMA,
which halves them; the model, its matrices in 8 bits with a scale for every 32 columns; texts of the experiment on hard
negatives, each cut to the tokens that it reads.

`unpack` runs there, before any of our packages can be imported: numpy and safetensors alone.
"""

import argparse
import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    import polars as pl
    from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (  # without what they need: pip's answer would bring what is there
    *("polars", "polars-runtime-32", "xxhash", "omegaconf", "pydantic", "pydantic-core", "annotated-types"),
    *("typing-inspection", "typing-extensions", "datasets", "dill", "multiprocess"),
)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any")
CODE = (
    *(
        "conan_embed",
        "benchmarks",
        "experiments",
        "tests/__init__.py",
        "tests/tiny_models.py",
        "tests/support",
    ),
    *("tests/stories/__init__.py", "tests/stories/test_world.py", "pyproject.toml"),
)
MAX_MIB = 62  # of what travels; such a machine takes 64
MAX_TOKENS = 48  # of a text, as experiments/hard-negatives reads them
POOL_ROWS = 7_000  # of each file of the experiment's pool, at most
BASE_ROWS = 500  # of each file that the experiment's base learns from
_LZMA = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 9}]
_BLOCK = 32


def make(folder: Path, base: Path, data: Path, wheels: Path, *, with_code: bool) -> None:
    """Write the folder; print how large its parts are, and what travels with them."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "code", ignore_errors=True)
    (folder / "run.sh").unlink(missing_ok=True)
    if with_code:
        _copy_code(folder / "code")
        shutil.copy(ROOT / "benchmarks/gpu_run.sh", folder / "run.sh")
    _pack_packages(wheels, folder / "packages.tar.xz")
    _pack_model(base, folder / "model.tar.xz")
    _cut_data(data, folder / "data", base)
    sizes = {part.name: _size(part) for part in sorted(folder.iterdir())}
    if not with_code:
        sizes["the checkout"] = checkout_size(ROOT, folder)
    check_sizes(folder, sizes)


def check_sizes(folder: Path, sizes: dict[str, int]) -> None:
    """Print the sizes (bytes); refuse what is too much together."""
    total = sum(sizes.values())
    for name, size in (sizes | {"together": total}).items():
        print(f"{size / 2**20:6.1f} MiB  {name}")
    if total >= MAX_MIB * 2**20:
        raise SystemExit(
            f"{folder}: {total / 2**20:.1f} MiB, expected less than {MAX_MIB}: a smaller model, fewer rows."
        )


def checkout_size(root: Path, folder: Path) -> int:
    """Return the bytes of a checkout's files, those not yet added included; ignored ones stay, the bundle counts itself."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    files = {root / name for name in listed.split("\0") if name}
    return sum(
        file.stat().st_size for file in files if file.is_file() and folder.resolve() not in file.parents
    )


def unpack(folder: Path, work: Path) -> None:
    """Unpack packages and model of the bundle to `work`."""
    for name in ("packages", "model"):
        shutil.rmtree(work / name, ignore_errors=True)
        with tarfile.open(folder / f"{name}.tar.xz", "r:xz") as tar:
            tar.extractall(work / name, filter="data")
    weights = work / "model" / "weights.npz"
    with np.load(weights) as packed:
        save_file(dict(_from_8_bits(packed)), work / "model" / "model.safetensors", metadata={"format": "pt"})
    weights.unlink()


# ------------------------------------------------------------------------------------------------- code, packages


def _copy_code(target: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", *CODE], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    shutil.rmtree(target, ignore_errors=True)
    for name in listed.splitlines():
        if "/results/" not in name and not name.endswith((".ipynb", ".png")):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def _pack_packages(wheels: Path, target: Path) -> None:
    """Download the wheels for Python 3.12, unpack them and pack them again; does nothing for the same wheels."""
    wheels.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "3.12", "--implementation", "cp", "-d", str(wheels)]
    command += [f"--platform={platform}" for platform in PLATFORMS]
    if not list(wheels.glob("*.whl")):
        subprocess.run([*command, *map(_as_here, PACKAGES)], check=True)
    names = sorted(path.name for path in wheels.glob("*.whl"))
    note = target.with_name("packages.txt")
    if target.exists() and note.exists() and note.read_text().split() == names:
        return
    with tempfile.TemporaryDirectory() as unpacked:
        for name in names:
            with zipfile.ZipFile(wheels / name) as wheel:
                wheel.extractall(unpacked)
        _write_tar(target, Path(unpacked))
    note.write_text("\n".join(names) + "\n")


def _as_here(package: str) -> str:
    """Return the package in the version that is installed here, where it is."""
    try:
        return f"{package}=={version(package)}"
    except PackageNotFoundError:
        return package


def _write_tar(target: Path, folder: Path) -> None:
    with lzma.open(target, "wb", filters=_LZMA) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)


# ---------------------------------------------------------------------------------------------------------- model


def _pack_model(base: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory() as copy:
        ignore = shutil.ignore_patterns("model.safetensors", "onnx", "README.md")
        shutil.copytree(base, copy, ignore=ignore, dirs_exist_ok=True)
        np.savez(Path(copy) / "weights.npz", **dict(_to_8_bits(load_file(base / "model.safetensors"))))
        _write_tar(target, Path(copy))


def _to_8_bits(tensors: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield matrices as levels `NAME|q` and scales `NAME|s`, everything else as it is."""
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or tensor.shape[1] % _BLOCK:
            yield name, tensor
            continue
        blocks = tensor.astype(np.float32).reshape(len(tensor), -1, _BLOCK)
        scale = (np.abs(blocks).max(axis=2, keepdims=True) / 127).astype(np.float16)
        levels = np.rint(blocks / np.where(scale == 0, 1, scale).astype(np.float32)).clip(-127, 127)
        yield f"{name}|q", levels.astype(np.int8).reshape(tensor.shape)
        yield f"{name}|s", scale[:, :, 0]


def _from_8_bits(packed: "np.lib.npyio.NpzFile") -> Iterator[tuple[str, np.ndarray]]:
    for name in packed.files:
        if name.endswith("|q"):
            scale = packed[f"{name[:-1]}s"].astype(np.float32)
            yield name[:-2], packed[name].astype(np.float32) * np.repeat(scale, _BLOCK, axis=1)
        elif not name.endswith("|s"):
            yield name, packed[name]


# ----------------------------------------------------------------------------------------------------------- data


def _cut_data(data: Path, target: Path, base: Path) -> None:
    """Copy what experiments/hard-negatives reads, every text cut to the tokens that it reads of it."""
    import yaml
    from tokenizers import Tokenizer

    sys.path.insert(0, str(ROOT / "experiments/hard-negatives"))
    from data import DOCUMENTATION, OTHER_DOMAINS

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    shutil.rmtree(target, ignore_errors=True)
    recipe = yaml.safe_load((ROOT / "experiments/hard-negatives/base.yaml").read_text(encoding="utf-8"))
    patterns = [Path(each["path"]).name for each in recipe["data"]["retrieval"]]
    learned = [file for pattern in patterns for file in sorted((data / "pretrain").glob(pattern))]
    pool = [data / "pretrain" / f"{name}.parquet" for name in DOCUMENTATION]
    sets = [
        file for name in OTHER_DOMAINS for file in sorted((data / "eval/retrieval" / name).glob("*.parquet"))
    ]
    limits = dict.fromkeys(learned, BASE_ROWS) | dict.fromkeys(pool, POOL_ROWS)
    for file in (*pool, *learned, *sets):
        _cut_file(file, target / file.relative_to(data), tokenizer, limits.get(file))


def _cut_file(source: Path, target: Path, tokenizer: "Tokenizer", limit: int | None) -> None:
    import polars as pl

    frame = pl.read_parquet(source)
    if limit is not None and len(frame) > limit:
        frame = frame.sample(limit, seed=0)
    texts = [name for name in ("query", "positive", "text", "title") if frame.schema.get(name) == pl.String]
    cut = [pl.Series(name, list(_cut(frame[name], tokenizer)), dtype=pl.String) for name in texts]
    keep = texts if {"query", "positive"} <= set(texts) else frame.columns
    target.parent.mkdir(parents=True, exist_ok=True)
    frame.with_columns(cut).select(keep).write_parquet(target, compression="zstd", compression_level=19)


def _cut(texts: "pl.Series", tokenizer: "Tokenizer") -> Iterator[str | None]:
    """Yield each text up to the end of its last token that is read."""
    read = [(text or "")[: 8 * MAX_TOKENS] for text in texts]
    for start in range(0, len(read), 1000):
        part = read[start : start + 1000]
        for text, encoded in zip(part, tokenizer.encode_batch(part), strict=True):
            yield text[: encoded.offsets[-2][1]] if len(encoded.offsets) > 2 else text


def _size(path: Path) -> int:
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if path.is_dir()
        else path.stat().st_size
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="write the folder")
    making.add_argument("folder", type=Path)
    making.add_argument("--base", type=Path, required=True, help="the small model")
    making.add_argument("--data", type=Path, required=True, help="laid out as docs/data.md says")
    making.add_argument("--with-code", action="store_true", help="for a folder carried without a checkout")
    making.add_argument("--wheels", type=Path, help="where wheels are downloaded to; default: beside FOLDER")
    unpacking = commands.add_parser("unpack", help="on the GPU machine")
    unpacking.add_argument("folder", type=Path)
    unpacking.add_argument("work", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "make":
        wheels = arguments.wheels or arguments.folder.with_name(f"{arguments.folder.name}-wheels")
        make(arguments.folder, arguments.base, arguments.data, wheels, with_code=arguments.with_code)
    else:
        unpack(arguments.folder, arguments.work)


if __name__ == "__main__":
    main()
