"""The README.md of a model folder: what the model is, what it was trained on, how good it is and how to use it.

Everything in it follows from the folder: the layout (prompts, widths, length) and two entries of `conan_embed.json`,
`training` and `results`, which training and evaluation write. So the card can be made anew at any time: after more
evaluation, or for an exported copy.

A person fills in what no program knows (the licence, limits). What stands outside the two marks, and every key of the
front matter that is not ours, is kept when the card is made anew.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from conan_embed.errors import UserError
from conan_embed.files import read_json, read_json_lines, write_json, write_text

FILE = "README.md"
_BEGIN = "<!-- conan-embed: made from the model folder, and made anew with it -->"
_END = "<!-- conan-embed: end. What follows is yours -->"
_TAGS = ("sentence-transformers", "feature-extraction", "sentence-similarity", "conan-embed")
_OURS = ("library_name", "pipeline_tag", "base_model", "model-index")  # keys of the front matter
_YOURS = """
## Licence and limits

*To be filled in, here and as `license` above, before the model is given to others.*

- Licence of the weights: *unknown*
- Licence of the base model: *unknown*
- Licence of the data sets: *unknown*
- Languages and kinds of text that it is meant for: *unknown*
- Known limits: *unknown*
"""
_TYPE_NAMES = {
    "retrieval": "Retrieval",
    "reranking": "Reranking",
    "sts": "STS",
    "pair_classification": "PairClassification",
    "classification": "Classification",
    "clustering": "Clustering",
    "bitext": "BitextMining",
}


@dataclass(frozen=True)
class Interface:
    """How the model is called.

    Attributes:
        prompts: text put before queries, passages and the texts of STS pairs, by role.
        width: numbers of an embedding.
        widths: Matryoshka prefixes, the full width among them.
        max_length: tokens per text.
        onnx: the folder holds `model.onnx` instead of a model of sentence-transformers.
    """

    prompts: Mapping[str, str]
    width: int
    widths: Sequence[int]
    max_length: int
    onnx: bool = False


def write_card(
    folder: Path, interface: Interface, details: Mapping[str, Any], *, earlier: Path | None = None
) -> None:
    """Write the README.md of a model folder.

    Args:
        details: may hold `training` (see `note_training`) and `results` (see `note_results`).
        earlier: a card whose filled-in parts are kept.
    """
    kept, yours = _filled_in(earlier)
    name = _name(details)
    training, results = details.get("training", {}), details.get("results", [])
    evaluated: dict[str, Any] = {"model_name": name, "eval_results": [_eval_result(row) for row in results]}
    data = ModelCardData(
        license=kept.pop("license", "unknown"),
        library_name="onnx" if interface.onnx else "sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=[*_TAGS, *(["mteb"] if any(row["benchmark"] for row in results) else []), *kept.pop("tags", [])],
        base_model=base if _is_hub_name(base := str(training.get("base", ""))) else None,
        **(evaluated if results else {}),
        **kept,
    )
    body = [f"# {name}", _about(interface, training)]
    body += [_use(interface), _training(training), _results(results)]
    generated = "\n\n".join(part for part in body if part)
    text = f"---\n{data.to_yaml()}\n---\n\n{_BEGIN}\n\n{generated}\n\n{_END}\n{yours}"
    write_text(folder / FILE, text)


def note_training(model: Path, run: Path) -> None:
    """Note in the model folder what the run directory `run` says of its training, and make the card anew."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    facts = read_json(run / "run.json")
    rows = {(data["task"], data["name"]): data["rows"] for data in facts["datasets"]}
    datasets = [
        {
            "task": task,
            "name": data["name"],
            "rows": rows.get((task, data["name"])) or _rows_of(facts, data["name"]),
            "file": Path(data["path"]).name,
            "columns": data["columns"],
            "negative_source": data.get("negative_source"),
        }
        for task in ("retrieval", "classification", "sts")
        for data in recipe["data"][task]
    ]
    settings = {
        "steps": facts["steps"],
        "a step": ", ".join(_step(recipe)),
        "learning rate": recipe["optimizer"]["learning_rate"],
        "temperature": recipe["loss"]["temperature"],
        "negatives": recipe["hard_negatives"]["source"],
        "precision": recipe["training"]["precision"],
        "seed": recipe["training"]["seed"],
        "processes": facts["processes"],
    }
    training = {
        "name": run.resolve().name,
        "base": recipe["model"]["base"],
        "datasets": datasets,
        "settings": settings,
        "versions": facts["versions"],
    }
    details = read_json(model / "conan_embed.json")
    evaluations = {line["step"]: line["results"] for line in read_json_lines(run / "evaluation.jsonl")}
    results = [
        _row(key, result, benchmark=None, before=evaluations.get(0, {}).get(key))
        for key, result in evaluations.get(details.get("step"), {}).items()
    ]
    _note(model, {"training": training, "results": results})


def note_results(model: Path, evaluation: Mapping[str, Any]) -> None:
    """Note what an evaluation (`conan_embed.evaluation`) found, and make the card anew; other results stay.

    Raises:
        UserError: the model is no folder of ours, as after a hub name.
    """
    if not (model / "conan_embed.json").exists():
        raise UserError(f"{model}: has no card to update; expected a folder that training or export wrote.")
    benchmark = evaluation.get("benchmark")
    new = [_row(key, result, benchmark=benchmark) for key, result in evaluation["tasks"].items()]
    replaced = {(row["benchmark"], row["key"]) for row in new}
    before = read_json(model / "conan_embed.json").get("results", [])
    _note(model, {"results": [row for row in before if (row["benchmark"], row["key"]) not in replaced] + new})


def _note(model: Path, new: Mapping[str, Any]) -> None:
    from conan_embed.encoder.formats import read_layout

    details = {**read_json(model / "conan_embed.json"), **new}
    write_json(model / "conan_embed.json", details)
    layout = read_layout(model)
    hidden = read_json(model / "1_Pooling" / "config.json")["word_embedding_dimension"]
    width = layout.width or hidden
    assert layout.max_length is not None
    interface = Interface(layout.prompts.by_role(), width, layout.widths or (width,), layout.max_length)
    write_card(model, interface, details, earlier=model / FILE)


def _row(
    key: str,
    result: Mapping[str, Any],
    *,
    benchmark: str | None,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return one line of `results`: a task's main score, in per cent."""
    dataset = result.get("dataset", {})
    return {
        "benchmark": benchmark,
        "key": key,
        "metric": result["metric"],
        "score": round(100 * result["main_score"], 4),
        "base": None if before is None else round(100 * before["main_score"], 4),
        "widths": {width: round(100 * score, 4) for width, score in result.get("widths", {}).items()},
        "revision": dataset.get("revision"),
        "split": ",".join(dataset.get("splits", [])) or None,
    }


def _eval_result(row: Mapping[str, Any]) -> EvalResult:
    type_, name = row["key"].split("/", 1)
    return EvalResult(
        task_type=_TYPE_NAMES.get(type_, type_),
        dataset_type=re.sub(r"[^\w.-]+", "-", name),
        dataset_name=f"MTEB {name}" if row["benchmark"] else name,
        dataset_config="default",
        dataset_split=row["split"],
        dataset_revision=row["revision"],
        metric_type=row["metric"],
        metric_value=row["score"],
    )


# ---- the text ----------------------------------------------------------------------------------


def _about(interface: Interface, training: Mapping[str, Any]) -> str:
    lines = [
        f"A text-embedding model: {interface.width} numbers a text of up to {interface.max_length} tokens."
    ]
    narrower = [width for width in interface.widths if width != interface.width]
    if narrower:
        widths = ", ".join(map(str, sorted(narrower)))
        lines.append(
            f"The first {widths} numbers, normalised anew, are embeddings too (Matryoshka), smaller and less exact."
        )
    if training:
        lines.append(f"Trained from `{_shown_base(training['base'])}` with conan-embed.")
    return "\n".join(lines)


def _use(interface: Interface) -> str:
    prompts = "\n".join(
        f"| {role} | {f'`{prompt!r}`' if prompt else 'none'} |" for role, prompt in interface.prompts.items()
    )
    table = f"| texts | put before them |\n|---|---|\n{prompts}"
    if interface.onnx:
        how = (
            "`model.onnx` takes `input_ids` and `attention_mask`, int64 [batch, length], padded after the texts, and "
            "returns `sentence_embedding`, float32, of length 1. Put the prompt before the text yourself:"
        )
        return f"## Use\n\n{how}\n\n{table}"
    narrow = min(interface.widths)
    sts = 'sts = model.encode(texts, prompt_name="sts")  # texts that all play the same part'
    cut = ""
    if narrow != interface.width:
        cut = (
            f'\nshort = SentenceTransformer("MODEL", truncate_dim={narrow})\n'
            "queries = short.encode_query(questions, normalize_embeddings=True)  # a prefix needs its own norm"
        )
    narrow_here = f", widths=[{narrow}]" if narrow != interface.width else ""
    return f"""## Use

With sentence-transformers (5 or later), which adds the prompts by itself:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("MODEL")
queries = model.encode_query(questions)
passages = model.encode_document(documents)
scores = model.similarity(queries, passages)
{sts}{cut}
```

With conan-embed:

```python
from conan_embed.encoder.model import EmbeddingModel

model = EmbeddingModel.load("MODEL")
queries = model.encode(questions, prompt=model.prompts["query"]{narrow_here})
passages = model.encode(documents, prompt=model.prompts["passage"]{narrow_here})
```

{table}"""


def _training(training: Mapping[str, Any]) -> str:
    if not training:
        return ""
    lines = [
        "## Training",
        "",
        "| data set | task | rows | file | columns | negatives |",
        "|---|---|---|---|---|---|",
    ]
    for data in training["datasets"]:
        columns = ", ".join(f"{ours}: {theirs}" for ours, theirs in data["columns"].items())
        cells = (
            data["name"],
            data["task"],
            "" if data["rows"] is None else f"{data['rows']:,}",
            data["file"],
            columns,
            data["negative_source"] or "",
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| setting | value |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in training["settings"].items()]
    versions = ", ".join(f"{name} {version}" for name, version in training["versions"].items())
    return "\n".join([*lines, "", f"Versions: {versions}."])


def _results(results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return ""
    widths = sorted({int(width) for row in results for width in row["widths"]}, reverse=True)
    head = ["evaluation", "task", "metric", "score", "base model", *(f"width {width}" for width in widths)]
    lines = ["## Results", "", "In per cent, at the full width unless it says otherwise.", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in results:
        cells = [row["benchmark"] or "local sets", row["key"], row["metric"], f"{row['score']:.2f}"]
        cells.append("" if row["base"] is None else f"{row['base']:.2f}")
        cells += [f"{row['widths'][str(w)]:.2f}" if str(w) in row["widths"] else "" for w in widths]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _name(details: Mapping[str, Any]) -> str:
    return str(details.get("training", {}).get("name") or "An embedding model")


def _step(recipe: Mapping[str, Any]) -> list[str]:
    step = recipe["step"]
    parts = []
    if step["queries"]:
        parts.append(f"{step['queries']} queries with {step['num_negatives']} hard negatives each")
    if step["sts_pairs"]:
        parts.append(f"{step['sts_pairs']} STS pairs (beta {recipe['loss']['beta']})")
    return parts


def _rows_of(facts: Mapping[str, Any], name: str) -> int | None:
    return next((data["rows"] for data in facts["datasets"] if data["name"] == name), None)


def _is_hub_name(base: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", base)) and not Path(base).exists() and base[0] != "."


def _shown_base(base: str) -> str:
    """Return a hub name whole, and of a path only the last part: the rest is the owner's affair."""
    return base if _is_hub_name(base) else Path(base).name


def _filled_in(card: Path | None) -> tuple[dict[str, Any], str]:
    """Return the keys of the front matter and the text that a person may have changed, of an earlier card."""
    if card is None or not card.exists():
        return {}, _YOURS
    text = card.read_text(encoding="utf-8")
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if found is None or _END not in text:
        return {}, _YOURS
    try:
        front = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" line {mark.line + 2}:"
        raise UserError(f"{card}:{line} the front matter is not YAML.") from None
    kept = {name: value for name, value in front.items() if name not in _OURS}
    kept["tags"] = [tag for tag in kept.get("tags", []) if tag not in (*_TAGS, "mteb")]
    return kept, text.split(_END, 1)[1].removeprefix("\n")
