"""The page of a tuning run: the verdict first, questions won and lost, what it cost elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from conan_embed.files import read_json, write_text
from conan_embed.reporting.neighbours import Example, Group, Side, Text
from conan_embed.reporting.page import template
from conan_embed.reporting.tables import Cell, Row, Tile
from conan_embed.tuning.plan import Files, duration
from conan_embed.tuning.replaced import Replacements
from conan_embed.tuning.result import TuneResult

SECTIONS = {  # in the order of the page: key, and how the navigation calls it
    "won": "Won",
    "lost": "Lost",
    "scores": "Scores",
    "elsewhere": "Elsewhere",
    "replaced": "Hard negatives",
    "data": "Data",
    "settings": "Settings",
    "use": "Use it",
}
_SHOWN, _MOST = 3, 10  # questions in sight, and with those folded away
_LETTERS = 240  # of a passage
_TONES = {"BETTER": "good", "WORSE": "bad"}


@dataclass(frozen=True)
class Table:
    """Rows of numbers; `note` stands above it."""

    columns: Sequence[str]
    rows: Sequence[Row]
    note: str = ""


def write_page(
    result: TuneResult, replacements: Replacements | None, data: Sequence[str], reasons: Sequence[str]
) -> Path:
    """Write report.html into the run's folder; return it.

    Args:
        replacements: of hard negatives, or None where they stayed.
        data: what was read and made, in sentences.
        reasons: of the settings.
    """
    files = Files(result.folder)
    questions = _questions(files)
    verdict = result.verdict
    sections: dict[str, Any] = {
        "won": _changed(questions, files, won=True, total=verdict.won),
        "lost": _changed(questions, files, won=False, total=verdict.lost),
        "scores": _scores(result),
        "elsewhere": _elsewhere(result),
        "replaced": None if replacements is None else _replaced(replacements),
        "data": list(data),
        "settings": list(reasons),
        "use": True,
    }
    page = template("tuned.html").render(
        sections,
        present={key: name for key, name in SECTIONS.items() if sections[key]},
        title=f"{verdict.word}: {files.folder.name}",
        name=files.folder.name,
        word=verdict.word,
        tone=_TONES.get(verdict.word, ""),
        headline=f"nDCG@10 {100 * verdict.base:.1f} → {100 * verdict.tuned:.1f} "
        f"on {verdict.questions:,} held-out questions",
        lede=f"{_interval(result)} {verdict.advice()}",
        tiles=_tiles(result),
        shares=_shares(result),
        reasons=list(reasons),
        times=_times(result),
        commands=_commands(files),
    )
    write_text(files.page, page)
    return files.page


def _interval(result: TuneResult) -> str:
    verdict = result.verdict
    interval = (
        f"{100 * verdict.difference:+.1f}, 95 % interval {100 * verdict.low:+.1f} to {100 * verdict.high:+.1f} "
        "(paired bootstrap over questions)."
    )
    return " ".join(filter(None, (interval, verdict.noise())))


def _tiles(result: TuneResult) -> list[Tile]:
    verdict, elsewhere = result.verdict, result.elsewhere
    return [
        Tile("Won", f"{verdict.won:,}", f"of {verdict.questions:,} questions; {verdict.lost:,} lost"),
        Tile("Word search (BM25)", f"{100 * result.bm25:.1f}", f"tuned: {100 * verdict.tuned:.1f}"),
        Tile(
            "Other domains",
            f"{100 * (elsewhere.tuned - elsewhere.base):+.1f}",
            f"{100 * elsewhere.base:.1f} → {100 * elsewhere.tuned:.1f}"
            + (f" ({elsewhere.interval()})" if elsewhere.interval() else ""),
        ),
        Tile("Tuned weights", f"{100 * result.share:.0f} %", "the rest is the base's"),
        Tile(
            "Time",
            duration(sum(result.seconds.values())),
            f"estimated {duration(sum(result.estimated.values()))}",
        ),
    ]


# ------------------------------------------------------------------------------------------------ questions


def _questions(files: Files) -> pl.DataFrame:
    """Return query, found and score of each model, and the difference."""
    base, tuned = (pl.read_parquet(files.scores / f"{name}.parquet") for name in ("base", "tuned"))
    both = base.rename({"ndcg_at_10": "before", "found": "found_before"}).hstack(
        tuned.select(after="ndcg_at_10", found_after="found")
    )
    return both.with_columns(difference=pl.col("after") - pl.col("before"))


def _changed(questions: pl.DataFrame, files: Files, *, won: bool, total: int) -> Group | None:
    """Return the questions with the largest differences, with what both models find first."""
    rows = questions.sort("difference", descending=won, maintain_order=True).head(_MOST)
    rows = rows.filter(pl.col("difference") > 1e-9 if won else pl.col("difference") < -1e-9)
    if rows.is_empty():
        return None
    answers, texts = _answers(files, rows)
    entries = [_example(row, answers, texts) for row in rows.iter_rows(named=True)]
    how = "better" if won else "worse"
    note = f"The {len(entries)} of {total:,} questions that the tuned model answers {how} by the most; ✓: the answer."
    return Group(entries[:_SHOWN], entries[_SHOWN:], note=note)


def _answers(files: Files, rows: pl.DataFrame) -> tuple[dict[str, set[str]], dict[str, str]]:
    """Return the doc_ids that answer each of some questions, and the texts of everything they find."""
    folder = files.pairs / "test" / "retrieval" / read_json(files.pairs / "summary.json")["name"]
    judged = pl.read_parquet(folder / "qrels.parquet").join(
        pl.read_parquet(folder / "queries.parquet"), on="query_id"
    )
    judged = judged.filter(pl.col("text").is_in(rows["query"].implode()))
    answers: dict[str, set[str]] = {}
    for query, doc_id in judged.select("text", "doc_id").iter_rows():
        answers.setdefault(query, set()).add(doc_id)
    ids = pl.concat([rows["found_before"].explode(), rows["found_after"].explode()]).unique()
    corpus = pl.scan_parquet(folder / "corpus.parquet").filter(pl.col("doc_id").is_in(ids.implode()))
    return answers, dict(corpus.select("doc_id", "text").collect().iter_rows())


def _example(row: dict[str, Any], answers: dict[str, set[str]], texts: dict[str, str]) -> Example:
    sides = [
        Side(
            title,
            [_passage(rank, doc_id, row["query"], answers, texts) for rank, doc_id in enumerate(found, 1)],
        )
        for title, found in (("Base", row["found_before"]), ("Tuned", row["found_after"]))
    ]
    return Example(row["query"], sides, f"nDCG@10 {100 * row['before']:.0f} → {100 * row['after']:.0f}")


def _passage(rank: int, doc_id: str, query: str, answers: dict[str, set[str]], texts: dict[str, str]) -> Text:
    text = f"{Path(doc_id).name} · {texts[doc_id]}"
    return Text(str(rank), text[:_LETTERS], None, doc_id in answers.get(query, ()))


# ------------------------------------------------------------------------------------------------ tables


def _scores(result: TuneResult) -> Table:
    verdict = result.verdict
    scores = {"BM25 (word search)": result.bm25, "Base": verdict.base, "Tuned": verdict.tuned}
    rows = [
        Row(name, [Cell(f"{100 * score:.1f}"), Cell(f"{100 * (score - verdict.base):+.1f}")])
        for name, score in scores.items()
    ]
    return Table(["", "nDCG@10", "beside the base"], rows)


def _elsewhere(result: TuneResult) -> Table:
    rows = [
        Row(key.partition("/")[2], [_cell(base), _cell(tuned), Cell(f"{100 * (tuned - base):+.1f}")])
        for key, (base, tuned) in result.elsewhere.tasks.items()
    ]
    note = "Questions from other domains, to see what was forgotten. Weights between the base and the tuned ones were "
    note += "tried; the best on development questions that loses at most half a point elsewhere was kept."
    return Table(["Set", "Base", "Tuned", "Difference"], rows, note)


def _shares(result: TuneResult) -> Table:
    rows = [
        Row(
            f"{100 * float(share):.0f} % tuned weights" + (" (kept)" if float(share) == result.share else ""),
            [_cell(scores["development"]), _cell(scores["other"])],
        )
        for share, scores in result.tried.items()
    ]
    return Table(["Weights", "Development questions", "Other domains"], rows)


def _cell(score: float) -> Cell:
    return Cell(f"{100 * score:.1f}")


def _times(result: TuneResult) -> Table:
    rows = [
        Row(
            name,
            [
                Cell(duration(seconds)),
                Cell(duration(result.seconds[name]) if name in result.seconds else "–"),
            ],
        )
        for name, seconds in result.estimated.items()
    ]
    return Table(["Part", "Estimated", "Taken"], rows)


def _replaced(replacements: Replacements) -> Group | None:
    entries = [
        Example(
            each.query,
            [
                Side("Replaced: cosine when mined, and under the tuned model", _negatives(each.old)),
                Side("Came in their place: cosine under the tuned model", _negatives(each.new)),
            ],
            f"answer at cosine {each.positive.trained:.2f}: {each.positive.text[:120]}",
        )
        for each in replacements.examples
    ]
    note = (
        f"{replacements.negatives:,} negatives of {replacements.queries:,} training queries were replaced once the "
        f"model told them from the answer; others of the ranking took their place. {_fall(replacements)}"
    )
    return Group(entries[:_SHOWN], entries[_SHOWN:], note=note) if entries else None


def _fall(replacements: Replacements) -> str:
    """Return what training did to the replaced negatives that are shown, and how near the new ones are."""
    old = [(text.mined, text.trained) for each in replacements.examples for text in each.old if text.mined]
    new = [text.trained for each in replacements.examples for text in each.new]
    if not old or not new:
        return ""
    mined, trained = (sum(values) / len(old) for values in zip(*old, strict=True))
    return (
        f"Those shown had a cosine of {mined:.2f} on average when they were mined and have {trained:.2f} now; "
        f"the ones that came have {sum(new) / len(new):.2f}."
    )


def _negatives(texts: Sequence[Any]) -> list[Text]:
    return [
        Text(
            str(rank),
            text.text[:_LETTERS],
            text.trained,
            moved="" if text.mined is None else f"was {text.mined:.2f}",
        )
        for rank, text in enumerate(texts, 1)
    ]


def _commands(files: Files) -> str:
    return "\n".join(
        [
            f'conan-embed search "..." --model {files.folder}',
            f"conan-embed encode {files.passages} --model {files.model} -o vectors.parquet",
            f'SentenceTransformer("{files.model}")   # Python',
        ]
    )
