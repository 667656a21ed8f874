"""The clients, the environments that they run in, and two models that each has to embed with as we do.

A client that is not installed beside the package lives in an environment of its own under CLIENTS (`.clients`), made by
`python -m tests.clients.clients` (`make test-clients`). Each runs as a process of its own, from one of `runners/`.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.export import export
from conan_embed.files import read_json
from conan_embed.quickstart.run import bundled_model

CLIENTS = Path(os.environ.get("CONAN_CLIENTS", ".clients")).resolve()
MEASURED = CLIENTS / "measured.jsonl"
"""What the tests measured, a line for each client, model and file: benchmarks/clients.py makes a table of it."""
RUNNERS = Path(__file__).with_name("runners")
LONGER = 0.97
NUM_LONGER = 3
LOWEST = {"model.safetensors": 0.999, "model.onnx": 0.999, "model_quantized.onnx": 0.97}

_SENTENCES = (
    "Yes.",
    "Where is the station?",
    "The kettle is boiling over.",
    "How long does a passport renewal take?",
    "She repaired the old radio with a spoon and some patience.",
    "Interest on the loan is due on the first working day of each month.",
    "The museum is closed on Mondays, except when a Monday is a public holiday.",
    "Whales breathe air, feed their young with milk and yet spend their whole life in the sea.",
    "To change the tyre, loosen the nuts before you lift the car, and tighten them crosswise at the end.",
)
QUERIES = _SENTENCES
# Each later one is longer than the models were trained for.
PASSAGES = (*_SENTENCES, " ".join(_SENTENCES), " ".join(reversed(_SENTENCES)), " ".join(3 * _SENTENCES))


@dataclass(frozen=True)
class Client:
    """A program that embeds with our folders.

    Attributes:
        runner: its file in `runners/`.
        files: the weights that it can use, of the names in LOWEST.
        packages: what its environment holds; none for clients beside the package.
        loses_end: cuts long texts after the special tokens were added, so that the end token goes: of any model. Its
            longer texts are near only (LONGER).
        dense: whether it can have a dense layer; else only the plain model is tried.
        source: of its packages the one whose source it needs as well, unpacked beside its environment.
    """

    name: str
    runner: str
    files: tuple[str, ...]
    packages: tuple[str, ...] = ()
    loses_end: bool = False
    dense: bool = True
    source: str = ""

    @property
    def models(self) -> tuple[str, ...]:
        return ("plain", "dense") if self.dense else ("plain",)

    @property
    def environment(self) -> Path:
        """Its folder, shared by clients of the same packages."""
        return CLIENTS / re.sub(r"[^a-z0-9]+", "-", self.packages[0].lower()).strip("-")

    @property
    def command(self) -> list[str] | None:
        """The program that runs the client, or None where it is not installed."""
        if self.runner.endswith(".mjs"):
            return ["node"] if (self.environment / "node_modules").exists() else None
        if not self.packages:
            return [sys.executable]
        python = self.environment / "bin" / "python"
        return [str(python)] if python.exists() and (self.environment / "installed").exists() else None


_TORCH, _ONNX = ("model.safetensors",), ("model.onnx", "model_quantized.onnx")
_ST5 = ("sentence-transformers[onnx]>=5.1,<6", "transformers<5")
ALL = (
    Client("transformers", "transformers_only.py", _TORCH),
    Client("onnxruntime", "onnxruntime_only.py", _ONNX),
    Client("sentence-transformers 6", "sentence_transformers_torch.py", _TORCH),
    Client("sentence-transformers 5", "sentence_transformers_torch.py", _TORCH, _ST5),
    Client("sentence-transformers 5 onnx", "sentence_transformers_onnx.py", _ONNX, _ST5),
    Client("optimum", "optimum_only.py", _ONNX, _ST5),
    Client("fastembed", "fastembed_only.py", _ONNX, ("fastembed",)),
    Client(
        "LangChain", "langchain_only.py", _TORCH, ("langchain-huggingface", "sentence-transformers", "polars")
    ),
    Client("LlamaIndex", "llama_index_only.py", _TORCH, ("llama-index-embeddings-huggingface", "polars")),
    Client("Haystack", "haystack_only.py", _TORCH, ("haystack-ai", "sentence-transformers-haystack")),
    Client("infinity", "infinity_only.py", _TORCH, ("infinity-emb[torch,server]",)),
    Client(
        "llama.cpp",
        "llama_cpp_only.py",
        _TORCH,
        ("llama-cpp-python", "gguf", "transformers", "sentencepiece"),
        dense=False,
        source="llama-cpp-python",
    ),
    Client("transformers.js", "transformers_js.mjs", _ONNX, ("@huggingface/transformers",), loses_end=True),
)


def make_models(folder: Path) -> dict[str, Path]:
    """Write two models, exported with both graphs: as trained small ones are, and with all that a folder can say."""
    base = bundled_model()
    plain = EmbeddingModel.load(base, max_length=64)
    torch.manual_seed(0)
    prompts = {"query": "query: ", "passage": "passage: ", "sts": "same: "}
    dense = EmbeddingModel.load(base, max_length=48, dense_width=256, widths=[256, 64], prompts=prompts)
    for name, model in (("plain", plain), ("dense", dense)):
        model.save(folder / "trained" / name)
        export(folder / "trained" / name, folder / "exported" / name, format="onnx", quantize="int8")
    return {name: folder / "exported" / name for name in ("plain", "dense")}


def expected(folder: Path) -> dict[str, np.ndarray]:
    """Our own embeddings in float32, by role."""
    model = EmbeddingModel.load(folder)
    return {
        "query": model.encode_query(QUERIES, precision="float32"),
        "passage": model.encode_document(PASSAGES, precision="float32"),
    }


def run(client: Client, models: dict[str, Path], scratch: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Run a client on model folders, each with all files that it uses: its rows by role, and versions of its packages.

    One process for all: most of the time goes into imports.
    """
    cases = {(name, file): scratch / f"{name}-{file}.json" for name in client.models for file in client.files}
    for (name, file), path in cases.items():
        folder = models[name]
        record = read_json(folder / "export.json")
        job = {
            "folder": str(folder),
            "file": file,
            "output": str(path.with_suffix(".rows")),
            "prompts": record["prompts"],
            "width": record["width"],
            "max_length": record["max_length"],
            "dense": (folder / "2_Dense").exists(),
            "queries": QUERIES,
            "passages": PASSAGES,
        }
        path.write_text(json.dumps(job), encoding="utf-8")
    runner, jobs = str(RUNNERS / client.runner), list(map(str, cases.values()))
    if client.runner.endswith(".mjs"):
        messages = run_file(client, RUNNERS / client.runner, scratch, *jobs)
    else:
        messages = run_file(client, RUNNERS / "every.py", scratch, runner, *jobs)
    rows = {case: path.with_suffix(".rows").read_text(encoding="utf-8") for case, path in cases.items()}
    return {case: {**json.loads(text), "messages": messages} for case, text in rows.items()}


def run_file(client: Client, file: Path, folder: Path, *arguments: str) -> str:
    """Run a file in a client's environment and a working directory; return what it wrote to stderr."""
    assert client.command is not None, f"{client.name} is not installed"
    # A client of its own environment must not see this one's packages, and none may look anything up.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if client.packages:
        environment["CLIENT_MODULES"] = str(client.environment)
    command = [*client.command, str(file), *arguments]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def cosines(result: dict[str, Any], ours: dict[str, np.ndarray]) -> np.ndarray:
    """The cosine between each text's embedding by the client and by us, those of the longer passages last."""
    found_ND = np.concatenate([np.asarray(result[role], np.float64) for role in ("query", "passage")])
    expected_ND = np.concatenate([ours[role] for role in ("query", "passage")])
    return (found_ND * expected_ND).sum(axis=1) / np.linalg.norm(found_ND, axis=1)


def note(client: Client, model: str, file: str, versions: dict[str, str], cosine_N: np.ndarray) -> None:
    """Add a line to MEASURED, where clients are installed."""
    if CLIENTS.is_dir():
        line = {
            "client": client.name,
            "model": model,
            "file": file,
            "versions": versions,
            "cosines": cosine_N.tolist(),
        }
        with MEASURED.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")


def install() -> None:
    """Make the environments that are not there yet; what cannot be installed is said and left out."""
    for client in ALL:
        if not client.packages or client.command is not None:
            continue
        client.environment.mkdir(parents=True, exist_ok=True)
        js = [
            "npm",
            "install",
            "--no-audit",
            "--no-fund",
            "--prefix",
            str(client.environment),
            *client.packages,
        ]
        # Without bytecode of all modules, of which few are imported: half the time.
        pip = [str(client.environment / "bin" / "python"), "-m", "pip", "install", "-q", "--no-compile"]
        # Our torch, where the client needs one: a CPU build if that is what is installed here.
        own_torch = [] if client.name == "fastembed" else [f"torch=={torch.__version__.split('+')[0]}"]
        try:
            if client.runner.endswith(".mjs"):
                subprocess.run(js, check=True, env={**os.environ, "ONNXRUNTIME_NODE_INSTALL_CUDA": "skip"})
                continue
            subprocess.run([sys.executable, "-m", "venv", str(client.environment)], check=True)
            subprocess.run([*pip, *own_torch, *client.packages], check=True)
            if client.source:
                unpack_source(client, pip[:3])
            (client.environment / "installed").touch()
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{client.name}: not installed: {error}", file=sys.stderr)


def unpack_source(client: Client, pip: list[str]) -> None:
    """Put the source of a package, in the version that is installed, into the folder `source` of the environment."""
    python = str(client.environment / "bin" / "python")
    show = [python, "-c", f"import importlib.metadata as m; print(m.version({client.source!r}))"]
    version = subprocess.run(show, check=True, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        download = ["download", "-q", "--no-deps", "--no-binary", ":all:", "-d", folder]
        subprocess.run([*pip, *download, f"{client.source}=={version}"], check=True)
        [archive] = Path(folder).iterdir()
        with tarfile.open(archive) as files:
            files.extractall(client.environment / "source", filter="data")


if __name__ == "__main__":
    install()
