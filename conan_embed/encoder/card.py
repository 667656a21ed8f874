"""The README.md of a model folder: what the model is, what it was trained on, how good it is and how to use it.

Everything in it follows from the folder: the layout (prompts, widths, length) and two entries of `conan_embed.json`,
`training` and `results`, which training and evaluation write. So the card can be made again at any time: after another
evaluation, or for an exported copy. Its text is `card.md.jinja`.

People fill in what no program knows (the licence, limits). Text after the second mark and keys of the front matter that
are not ours are kept when the card is made again. Licence and languages begin as those of the base model's card.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from conan_embed.errors import UserError
from conan_embed.files import read_json, read_json_lines, write_json, write_text

FILE = "README.md"
_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_BEGIN = "<!-- conan-embed: made from the model folder, and made again with it -->"
_END = "<!-- conan-embed: end. What follows is yours -->"
_TAGS = ("sentence-transformers", "feature-extraction", "sentence-similarity", "conan-embed")
_OURS = ("library_name", "pipeline_tag", "base_model", "datasets", "model-index")  # keys of the front matter
_NO_LICENSE = "unknown"
_OF_THE_BASE = ("license", "license_name", "license_link", "language")
_YOURS = """
## Licence and limits

*Fill this in, and `license` and `language` at the top of the file, before you share the model.*

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
        onnx: names of the graphs in `onnx/`.
    """

    prompts: Mapping[str, str]
    width: int
    widths: Sequence[int]
    max_length: int
    onnx: Sequence[str] = ()


@dataclass(frozen=True)
class Filled:
    """What people wrote in an earlier card: keys of the front matter, tags, and the text after our part."""

    front: Mapping[str, Any] = field(default_factory=dict)
    tags: Sequence[str] = ()
    text: str = _YOURS


def write_card(
    folder: Path, interface: Interface, details: Mapping[str, Any], *, earlier: Path | None = None
) -> None:
    """Write the README.md of a model folder.

    Args:
        details: may hold `training` (see `note_training`) and `results` (see `note_results`).
        earlier: a card whose filled-in parts are kept.
    """
    training, results = details.get("training", {}), details.get("results", [])
    name, filled = str(training.get("name") or "An embedding model"), _filled_in(earlier)
    narrower = sorted((width for width in interface.widths if width != interface.width), reverse=True)
    head, rows = _result_table(results)
    card = ModelCard.from_template(
        _front_matter(name, interface, training, results, filled),
        template_path=str(_TEMPLATE),
        **{"begin": _BEGIN, "end": _END, "name": name, "interface": interface, "training": training},
        **{"query": repr(interface.prompts["query"]), "passage": repr(interface.prompts["passage"])},
        width_argument=f", width={narrower[-1]}" if narrower else "",
        narrower=narrower,
        datasets=[_dataset_cells(data) for data in training.get("datasets", ())],
        head=head,
        results=rows,
    )
    write_text(folder / FILE, str(card).rstrip() + "\n" + filled.text)


def _front_matter(
    name: str,
    interface: Interface,
    training: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    filled: Filled,
) -> ModelCardData:
    tags = [
        *_TAGS,
        *(["onnx"] if interface.onnx else []),
        *(["mteb"] if any(r["benchmark"] for r in results) else []),
    ]
    base = str(training.get("base", ""))
    evaluated: dict[str, Any] = {"model_name": name, "eval_results": [_eval_result(row) for row in results]}
    return ModelCardData(
        **{"license": _NO_LICENSE, **training.get("of_the_base", {}), **filled.front},
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=[*tags, *(tag for tag in filled.tags if tag not in tags)],
        base_model=base if _is_hub_name(base) else None,
        datasets=sorted({data["name"] for data in training.get("datasets", ())}) or None,
        **(evaluated if results else {}),
    )


def note_training(model: Path, run: Path) -> None:
    """Note in the model folder what the run directory `run` says of its training, and make the card again."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    record = read_json(run / "run.json")
    training = {
        "name": run.resolve().name,
        "base": shown_base(recipe["model"]["base"]),
        "of_the_base": _of_the_base(recipe["model"]["base"]),
        "datasets": [
            _dataset(task, data, record["datasets"])
            for task in ("retrieval", "classification", "sts")
            for data in recipe["data"][task]
        ],
        "settings": _settings(recipe, record),
        "versions": record["versions"],
    }
    details = read_json(model / "conan_embed.json")
    evaluations = {line["step"]: line["results"] for line in read_json_lines(run / "evaluation.jsonl")}
    results = [
        _row(key, result, benchmark=None, before=evaluations.get(0, {}).get(key))
        for key, result in evaluations.get(details.get("step"), {}).items()
    ]
    _note(model, {"training": training, "results": results})


def _dataset(task: str, data: Mapping[str, Any], read: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the card says of one data set; never where its file lies."""
    same = sorted(
        (row for row in read if row["name"] == data["name"]), key=lambda row: row.get("task") != task
    )
    return {
        "task": task,
        "name": data["name"],
        "rows": same[0]["rows"] if same else None,
        "file": Path(data["path"]).name,
        "columns": data["columns"],
        "negative_source": data.get("negative_source"),
    }


def _settings(recipe: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    step, parts = recipe["step"], []
    if step["queries"]:
        parts.append(f"{step['queries']} queries with {step['num_negatives']} hard negatives each")
    if step["sts_pairs"]:
        parts.append(f"{step['sts_pairs']} STS pairs (beta {recipe['loss']['beta']})")
    return {
        "steps": record["steps"],
        "one step": ", ".join(parts),
        "learning rate": recipe["optimizer"]["learning_rate"],
        "temperature": recipe["loss"]["temperature"],
        "negatives": recipe["hard_negatives"]["source"],
        "precision": recipe["training"]["precision"],
        "seed": recipe["training"]["seed"],
        "processes": record["processes"],
    }


def check_card(model: Path) -> None:
    """Raise UserError if the model is no folder of ours, whose card could be updated (a hub name, say)."""
    if not (model / "conan_embed.json").exists():
        raise UserError(f"{model}: has no card to update; expected a folder that training or export wrote.")


def note_results(model: Path, evaluation: Mapping[str, Any]) -> None:
    """Note the scores of an evaluation (`conan_embed.evaluation`), and make the card again; other results stay.

    Raises:
        UserError: the model is no folder of ours, as after a hub name.
    """
    check_card(model)
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
    width = layout.width or read_json(model / "1_Pooling" / "config.json")["word_embedding_dimension"]
    assert layout.max_length is not None
    onnx = sorted(path.name for path in (model / "onnx").glob("*.onnx"))
    interface = Interface(layout.prompts.by_role(), width, layout.widths or (width,), layout.max_length, onnx)
    write_card(model, interface, details, earlier=model / FILE)


def _row(
    key: str, result: Mapping[str, Any], *, benchmark: str | None, before: Mapping[str, Any] | None = None
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


def markdown_cells(values: Iterable[Any]) -> list[str]:
    """Return values as cells of a Markdown table, in which a bar or a line break would end the cell."""
    texts = ("" if value is None else str(value) for value in values)
    return [" ".join(text.replace("|", "\\|").split()) for text in texts]


def _dataset_cells(data: Mapping[str, Any]) -> list[str]:
    columns = ", ".join(f"{ours}: {theirs}" for ours, theirs in data["columns"].items())
    rows = None if data["rows"] is None else f"{data['rows']:,}"
    return markdown_cells((data["name"], data["task"], rows, data["file"], columns, data["negative_source"]))


def _result_table(results: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    widths = sorted({int(width) for row in results for width in row["widths"]}, reverse=True)
    head = ["evaluation", "task", "metric", "score", "base model", *(f"width {width}" for width in widths)]
    rows = []
    for row in results:
        scores = [row["score"], row["base"], *(row["widths"].get(str(width)) for width in widths)]
        shown = (None if score is None else f"{score:.2f}" for score in scores)
        rows.append(markdown_cells((row["benchmark"] or "local sets", row["key"], row["metric"], *shown)))
    return head, rows


def _is_hub_name(base: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", base)) and not Path(base).exists() and base[0] != "."


def shown_base(base: str) -> str:
    """Return a hub name whole, and of a path only the last part: the rest is the owner's affair."""
    return base if _is_hub_name(base) else Path(base).name


def _of_the_base(base: str) -> dict[str, Any]:
    """Return licence and languages of the base model's card, where it has one on this machine."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(base, FILE) if _is_hub_name(base) else Path(base).expanduser() / FILE
    if not isinstance(cached, str | Path) or not Path(cached).is_file():
        return {}
    front, _ = _split(Path(cached))
    return {name: front[name] for name in _OF_THE_BASE if name in front}


def _filled_in(card: Path | None) -> Filled:
    """Return what people wrote in an earlier card; of a card that is not ours, licence and languages."""
    if card is None or not card.is_file():
        return Filled()
    front, text = _split(card)
    if _END not in text:
        return Filled({name: front[name] for name in _OF_THE_BASE if name in front})
    kept = {name: value for name, value in front.items() if name not in (*_OURS, "tags")}
    if kept.get("license") == _NO_LICENSE:
        del kept["license"]
    tags = [tag for tag in front.get("tags") or () if tag not in (*_TAGS, "mteb", "onnx")]
    return Filled(kept, tags, text.split(_END, 1)[1].removeprefix("\n"))


def _split(card: Path) -> tuple[dict[str, Any], str]:
    """Return front matter and text of a card."""
    text = card.read_text(encoding="utf-8")
    match = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", text, re.DOTALL)
    if match is None:
        return {}, text
    try:
        front = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" line {mark.line + 2}:"
        raise UserError(f"{card}:{line} the front matter is not YAML.") from None
    return front if isinstance(front, dict) else {}, text[match.end() :]
