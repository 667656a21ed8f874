"""The sections of the report that show texts: queries with their neighbours, with their mined negatives, and with
the hardest negatives that training used."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from conan_embed.reporting.runs import RunFiles
from conan_embed.reporting.tables import format_value

# The page must stay readable and small.
NUM_SHOWN, NUM_QUERIES, NUM_NEIGHBOURS, NUM_NEGATIVES, NUM_LETTERS = 2, 12, 5, 10, 240


@dataclass(frozen=True)
class Text:
    """A passage in a list; `moved` says from which rank it came."""

    rank: str
    text: str
    score: float | None
    relevant: bool = False
    moved: str = ""


@dataclass(frozen=True)
class Side:
    """A titled list of passages beside others."""

    title: str
    texts: Sequence[Text]


@dataclass(frozen=True)
class Example:
    """A query with lists of passages side by side."""

    query: str
    sides: Sequence[Side]
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Examples under a heading: the first in sight, the others folded away."""

    shown: Sequence[Example]
    folded: Sequence[Example]
    name: str = ""
    note: str = ""


@dataclass(frozen=True)
class Hardest:
    """The negatives of hard_negatives.jsonl, and the command that lists more of them."""

    summary: str
    command: str
    groups: Sequence[Group]


@dataclass(frozen=True)
class MiningRow:
    """What mining.json says about a data set."""

    name: str
    cells: Sequence[str]
    entries: Sequence[Example]


@dataclass(frozen=True)
class MiningTable:
    """mining.json as a table, a row for each data set."""

    columns: Sequence[str]
    rows: Sequence[MiningRow]


def examples(runs: Sequence[RunFiles]) -> Group | None:
    """Return the queries of examples.json with their neighbours before and after training (of each run)."""
    with_examples = [run for run in runs if _objects(run.examples, "queries")]
    by_query = [
        {str(record.get("query")): record for record in _objects(run.examples, "queries")}
        for run in with_examples
    ]
    shared = [
        query for query in (by_query[0] if by_query else []) if all(query in queries for queries in by_query)
    ]
    if not shared:
        return None
    entries = []
    for query in shared[:NUM_QUERIES]:
        befores = [_objects(queries[query], "before") for queries in by_query]
        afters = [_objects(queries[query], "after") for queries in by_query]
        sides = (
            [Side("Before", _ranked(befores[0]))]
            if befores[0] and all(b == befores[0] for b in befores)
            else []
        )
        for run, before, after in zip(with_examples, befores, afters, strict=True):
            sides.append(Side("After" if len(runs) == 1 else run.name, _ranked(after, before)))
        note = _where(by_query[0][query], befores[0], afters[0]) if len(runs) == 1 else ""
        entries.append(Example(cut(query), sides, note))
    corpus = with_examples[0].examples.get("corpus")
    of = f" of {corpus}" if corpus else ""
    note = f"The nearest passages{of} to some queries; relevant ones are marked ✓."
    return Group(entries[:NUM_SHOWN], entries[NUM_SHOWN:], note=note)


def mining(run: RunFiles) -> MiningTable | None:
    """Return the numbers and examples of mining.json, by data set."""
    columns = dict.fromkeys(
        key for numbers in run.mining.values() for key, v in numbers.items() if _is_plain(v)
    )
    rows = [
        MiningRow(
            name,
            [format_value(numbers.get(key)) for key in columns],
            [_mined(record) for record in _objects(numbers, "examples")[:NUM_QUERIES]],
        )
        for name, numbers in run.mining.items()
    ]
    return MiningTable([key.replace("_", " ") for key in columns], rows) if rows else None


def hardest(run: RunFiles) -> Hardest | None:
    """Return the negatives of hard_negatives.jsonl by query: those that may be answers, and the hardest others."""
    if not run.hardest:
        return None
    suspects = [line for line in run.hardest if line.get("suspect")]
    others = [line for line in run.hardest if line.get("in_use") and not line.get("suspect")]
    count = f"{len(suspects):,}" if suspects else "None"
    verb = "look like answers" if len(suspects) > 1 else "looks like an answer"
    summary = (
        f"{count} of the {len(run.hardest):,} hardest negatives {verb} that nobody labelled: the trained model scores "
        "such a negative like its query's positive, or the model that mined scored it above."
    )
    command = f"conan-embed false-negatives {shlex.quote(str(run.path))}" if suspects else ""
    groups = [
        Group(entries[:NUM_SHOWN], entries[NUM_SHOWN:], name)
        for name, lines in (("Suspected false negatives", suspects), ("The hardest others in use", others))
        if (entries := _by_query(lines))
    ]
    return Hardest(summary + (" To list them for labelling:" if suspects else ""), command, groups)


def _by_query(lines: Sequence[Mapping[str, Any]]) -> list[Example]:
    """The first queries of hard_negatives.jsonl, each with its positive and its negatives side by side."""
    queries: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        queries.setdefault((str(line.get("data_set")), str(line.get("query"))), []).append(line)
    entries = []
    for (data_set, query), of_query in list(queries.items())[:NUM_QUERIES]:
        first = of_query[0]
        positive = Text("", cut(first.get("positive")), first.get("positive_score"), relevant=True)
        positive = replace(positive, moved=_mined_at(first.get("mined_positive_score")))
        negatives = [
            Text(
                "–" if line.get("rank") is None else f"{line['rank']}",
                cut(line.get("negative")),
                line.get("negative_score"),
                moved=_mined_at(line.get("mined_negative_score")),
            )
            for line in of_query[:NUM_NEGATIVES]
        ]
        sides = [Side("Positive", [positive]), Side("Negatives, with their ranks when mined", negatives)]
        entries.append(Example(cut(query), sides, data_set))
    return entries


def _mined_at(score: float | None) -> str:
    return "" if score is None else f"mined {score:.2f}"


def cut(text: Any) -> str:
    """Return the beginning of a text, on one line, with an ellipsis where it goes on."""
    text = " ".join(str(text).split())
    return text if len(text) <= NUM_LETTERS else text[:NUM_LETTERS].rstrip() + "…"


def _ranked(neighbours: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]] = ()) -> list[Text]:
    """The first neighbours as a list; given the neighbours `before`, each says from which rank it came."""
    ranks = {neighbour.get("text"): rank for rank, neighbour in enumerate(before, 1)}
    texts = []
    for rank, neighbour in enumerate(neighbours[:NUM_NEIGHBOURS], 1):
        text, was = neighbour.get("text"), ranks.get(neighbour.get("text"))
        moved = "" if not before or was == rank else f"was {was}" if was else "new"
        texts.append(
            Text(f"{rank}", cut(text), neighbour.get("score"), bool(neighbour.get("relevant")), moved)
        )
    return texts


def _where(
    record: Mapping[str, Any], before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]
) -> str:
    """Say at which rank the first relevant passage stood and stands, and what it is if it is not in sight."""

    def describe_rank(neighbours: Sequence[dict[str, Any]]) -> tuple[int | None, str]:
        rank = next((rank for rank, each in enumerate(neighbours, 1) if each.get("relevant")), None)
        return rank, f"at rank {rank}" if rank else f"not among the first {len(neighbours)}"

    rank, now = describe_rank(after)
    text = f"First relevant passage: {f'{describe_rank(before)[1]} before, {now} after' if before else now}."
    relevant = record.get("relevant")
    if (rank is None or rank > NUM_NEIGHBOURS) and isinstance(relevant, list) and relevant:
        text += f" Sought: {cut(relevant[0])}"
    return text


def _mined(record: Mapping[str, Any]) -> Example:
    """A query of mining.json with its positives and its negatives."""
    positives = [Text("", cut(text), None, relevant=True) for text in record.get("positives") or []]
    negatives = [
        Text(f"{negative.get('rank', '')}", cut(negative.get("text")), negative.get("score"))
        for negative in _objects(record, "negatives")[:NUM_NEGATIVES]
    ]
    best = record.get("positive_score")
    title = "Positives" if best is None else f"Positives, the best at {best:.2f}"
    return Example(
        cut(record.get("query")), [Side(title, positives), Side("Negatives, with their ranks", negatives)]
    )


def _is_plain(value: Any) -> bool:
    """Whether a value of mining.json is a number, or numbers by name."""
    parts = value.values() if isinstance(value, dict) and value else [value]
    return all(isinstance(part, int | float) for part in parts)


def _objects(owner: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The objects in a list of a JSON file; empty where there is no such list."""
    value = owner.get(key)
    return [record for record in value if isinstance(record, dict)] if isinstance(value, list) else []
