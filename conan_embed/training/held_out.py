"""`evaluation.hold_out`: keep a share of the training pairs out of training, and evaluate on them.

    held_out/split.json                     what was split, and how many pairs are where
    held_out/training/NAME.parquet          what is left to train on; NAME.corpus.parquet: to mine from;
                                            NAME.scores.parquet: a teacher's scores beside the texts
    held_out/development/retrieval/NAME/    questions that training looks at: evaluation.folder of the run
    held_out/test/retrieval/NAME/           questions that nothing is chosen by
    held_out/scores.json                    of these: `before`, `after`, and which models were scored

Rows that share a text, of whatever data set, stay on one side; rows left in training that nearly equal a held-out
query or positive leave it (documents/held_out.py). The split depends on the texts and the share only, not on the
run's seed, so that runs compare and a resumed one goes on with the same data.

Shapes: R rows of all data sets, T texts of these rows.
"""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from conan_embed.console import console
from conan_embed.distributed import collectives
from conan_embed.documents.held_out import (
    HeldOutTexts,
    choose_groups,
    connected_groups,
    development_corpus,
    text_key,
    write_questions,
)
from conan_embed.encoder.fingerprint import fingerprint
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation.local import evaluate
from conan_embed.files import file_name, read_json, write_json
from conan_embed.recipes.data import Data, RetrievalData
from conan_embed.recipes.schema import Recipe
from conan_embed.texts.readers import OnBadRow, read_retrieval, read_scored_retrieval
from conan_embed.texts.tables import pairs_among, read_passages, scored_pairs
from conan_embed.training.resume import ResumePoint

_SEED = 0
_SCORES = "scores.json"
ROLES = ("training", "development", "test")
_PARTS = {
    "share": "evaluation.hold_out",
    "names": "names of the data sets",
    "rows": "pairs",
    "corpora": "passages to mine from",
    "scores": "scores beside the texts",
}
"""What split.json compares, by key."""


@dataclass(frozen=True)
class Counts:
    """Rows of all data sets by where they are; `near_duplicates` are in none of them."""

    training: int
    development: int
    test: int
    near_duplicates: int


def hold_out(recipe: Recipe, folder: Path, point: ResumePoint) -> Recipe:
    """Return the recipe for what is left to train on, with the held-out questions as its evaluation folder.

    The first process writes, then one of each node that does not see its files; the others wait. A recipe without
    `hold_out` is returned as it is.

    Args:
        folder: `held_out` of the run directory.
        point: where the run starts; the split that a checkpoint was trained with is never replaced by another.

    Raises:
        UserError: the recipe has something that does not go with it, the texts do not fall into groups, or they are
            not those that the checkpoint's split was made of.
    """
    share = recipe.evaluation.hold_out
    if not share:
        return recipe
    _check(recipe)
    with_scores = recipe.reads_scores
    if collectives.is_main_process():
        counts = _split(recipe.data, share, folder, point, with_scores=with_scores)
        console.print(
            f"held out: {counts.test:,} pairs to report, {counts.development:,} to choose by; "
            f"{counts.near_duplicates:,} near-duplicates of these left out of {counts.training:,} training pairs"
        )
    collectives.barrier()  # nodes that share a disk would remove one another's files
    if collectives.is_local_main_process() and not collectives.is_main_process():
        _split(recipe.data, share, folder, point, with_scores=with_scores)
    collectives.barrier()
    retrieval = [_left(data, folder) for data in recipe.data.retrieval]
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"retrieval": retrieval}),
            "evaluation": recipe.evaluation.model_copy(
                update={"folder": str(folder / "development"), "hold_out": 0.0}
            ),
        }
    )


def score_held_out(model: EmbeddingModel, folder: Path, when: str, precision: str) -> None:
    """Score the questions that nothing is chosen by, on the main process; note it in scores.json and print it.

    Args:
        folder: as in `hold_out`; without questions in it nothing is done.
        when: "before" or "after" training; what is noted already of the same model is not done again.
        precision: of matrix products, "bfloat16" or "float32".
    """
    if not (folder / "test").is_dir():
        return
    scores, identity = _read_scores(folder), f"{fingerprint(model)} {precision}"
    models = scores.setdefault("models", {})
    if when in scores and models.get(when) == identity:
        return
    scores[when] = evaluate(model, folder / "test", items=True, precision=precision).to_json()["tasks"]
    models[when] = identity
    write_json(folder / _SCORES, scores)
    for key, task in scores["after"].items() if when == "after" else ():
        before = scores.get("before", {}).get(key)
        change = "" if before is None else f"{100 * before['main_score']:.1f} -> "
        now = f"{change}{100 * task['main_score']:.1f}"
        console.print(f"{key}, held out and not looked at before: {task['metric']} {now}")


def forget_score(folder: Path, when: str) -> None:
    """Remove a score from scores.json: the run goes on, and its model will be another."""
    scores = _read_scores(folder)
    if scores.pop(when, None) is not None:
        write_json(folder / _SCORES, scores)


def _read_scores(folder: Path) -> dict[str, Any]:
    file = folder / _SCORES
    return read_json(file) if file.exists() else {}


def _check(recipe: Recipe) -> None:
    key = f"evaluation.hold_out: found {recipe.evaluation.hold_out:g}"
    if recipe.evaluation.folder is not None:
        raise UserError(f"{key} beside evaluation.folder; expected one of the two.")
    if recipe.data.stream:
        raise UserError(f"{key} beside data.stream; expected pairs that fit into memory.")
    if not recipe.data.retrieval:
        raise UserError(f"{key}, but data.retrieval names no files to hold anything out of.")
    for data in recipe.data.retrieval:
        if data.ranking is not None:
            raise UserError(
                f"{key} beside a ranking of {data.name}, which was made of all its pairs; expected none."
            )


def _left(data: RetrievalData, folder: Path) -> RetrievalData:
    """Return a data set with the files of its training side."""
    files: dict[str, Any] = {"path": str(_file(folder, data)), "columns": {}, "limit": None}
    if data.corpus is not None:
        files |= {"corpus": str(_corpus_file(folder, data)), "corpus_columns": {}}
    if _scores_file(folder, data).exists():
        files |= {"scores": str(_scores_file(folder, data))}
    return data.model_copy(update=files)


def _file(folder: Path, data: RetrievalData) -> Path:
    return folder / "training" / f"{file_name(data.name)}.parquet"


def _corpus_file(folder: Path, data: RetrievalData) -> Path:
    return folder / "training" / f"{file_name(data.name)}.corpus.parquet"


def _scores_file(folder: Path, data: RetrievalData) -> Path:
    return folder / "training" / f"{file_name(data.name)}.scores.parquet"


def _split(data: Data, share: float, folder: Path, point: ResumePoint, *, with_scores: bool) -> Counts:
    """Write both sides of the split, unless they are there."""
    scored = [_scores(part, data.on_bad_row) if with_scores else None for part in data.retrieval]
    sets = [read_retrieval(part.path, part.columns, on_bad_row=data.on_bad_row) for part in data.retrieval]
    sets = [frame.head(part.limit or len(frame)) for frame, part in zip(sets, data.retrieval, strict=True)]
    corpora = [_corpus(part, frame, data) for part, frame in zip(data.retrieval, sets, strict=True)]
    identity = {
        "share": share,
        "names": [part.name for part in data.retrieval],
        "rows": [_hash(frame) for frame in sets],
        "corpora": [_hash(corpus) for corpus in corpora],
    }
    if with_scores:
        identity["scores"] = [None if pairs is None else _hash(pairs) for pairs in scored]
    marker = folder / "split.json"
    known = read_json(marker) if marker.exists() else None
    if known is not None and known["of"] == identity:
        return Counts(**known["counts"])
    if known is not None and point.checkpoint is not None:
        _check_same_pairs(known["of"], identity, marker, point)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    role_R = split_rows(sets, share)
    rows = pl.concat(sets).with_columns(role=pl.Series(np.array(ROLES)[role_R]))
    held_out = rows.filter(pl.col("role") != "training")
    near_R = _near(rows, held_out)
    rows = rows.with_columns(role=pl.when(near_R).then(pl.lit("near")).otherwise("role"))
    sizes = np.cumsum([0, *map(len, sets)])
    forbidden = held_out["positive"].explode().unique()
    for part, corpus, pairs, start, stop in zip(
        data.retrieval, corpora, scored, sizes[:-1], sizes[1:], strict=True
    ):
        _write_set(part, rows[int(start) : int(stop)], corpus, forbidden, folder)
        if pairs is not None:
            _write_scores(part, pairs, folder)
    found = dict(rows["role"].value_counts().iter_rows())
    counts = Counts(*(found.get(role, 0) for role in (*ROLES, "near")))
    write_json(marker, {"of": identity, "counts": asdict(counts)})
    return counts


def _check_same_pairs(
    known: dict[str, Any], identity: dict[str, Any], marker: Path, point: ResumePoint
) -> None:
    """Accept other scores of a teacher where changes are allowed; other pairs are other text ids.

    Raises:
        UserError: says what differs.
    """
    changed = [key for key in known.keys() | identity.keys() if known.get(key) != identity.get(key)]
    only_scores = changed == ["scores"]
    if only_scores and point.allow_changes:
        return
    remedy = ", or accept the change with --allow-changes" if only_scores else ""
    raise UserError(
        f"{marker}: the data changed since {point.checkpoint}: {', '.join(_PARTS[key] for key in sorted(changed))}. "
        f"Put the old files back, start anew with --no-resume{remedy}."
    )


def _hash(frame: pl.DataFrame) -> str:
    return str(frame.with_row_index().hash_rows().sum())


def _corpus(part: RetrievalData, frame: pl.DataFrame, data: Data) -> pl.DataFrame:
    """Return everything that can be found for a data set's queries: doc_id, text; each text once."""
    own = frame.select(pl.concat_list("positive", "negative").explode().alias("text")).to_series()
    texts = own if part.corpus is None else pl.concat([read_passages(part, own, data.on_bad_row), own])
    unique = texts.drop_nulls().unique(maintain_order=True).alias("text").to_frame()
    return unique.select(doc_id=pl.format("p{}", pl.int_range(pl.len())), text="text")


def split_rows(sets: list[pl.DataFrame], share: float) -> NDArray[np.int64]:
    """Return for each row of all sets 0 (training), 1 (development) or 2 (test).

    Args:
        sets: query: str, positive: list[str].

    Raises:
        UserError: nothing can be held out, since nearly all rows hang together by shared texts.
    """
    rows = pl.concat([frame.select("query", "positive") for frame in sets]).with_row_index("row")
    texts = pl.concat(
        [rows.select("row", text="query"), rows.select("row", text="positive").explode("text").drop_nulls()]
    )
    key_T = text_key(texts["text"])
    group_T = connected_groups(texts["row"].to_numpy().astype(np.int64), key_T)
    group_R = group_T[: len(rows)]  # the first entries are the rows' queries
    first_R = key_T[: len(rows)].is_first_distinct().to_numpy()
    role_R = choose_groups(group_R[first_R], int(group_R.max()) + 1, share, _SEED)[group_R]
    if not {1, 2} <= set(role_R.tolist()):
        raise UserError(
            f"evaluation.hold_out: found {share:g}, but the {len(rows):,} pairs form {len(np.unique(group_R)):,} "
            "groups that share texts, too few to hold some out; expected more pairs, or an evaluation.folder."
        )
    return role_R


def _near(rows: pl.DataFrame, held_out: pl.DataFrame) -> pl.Series:
    """Return which training rows nearly equal a held-out query or positive in their own query or a positive."""
    known = HeldOutTexts(pl.concat([held_out["query"], held_out["positive"].explode()]))
    positives = rows.with_row_index("row").select("row", "positive").explode("positive").drop_nulls()
    near_R = known.near(rows["query"])
    near_R[positives["row"].to_numpy()[known.near(positives["positive"])]] = True
    return pl.Series(near_R) & (rows["role"] == "training")


def _scores(part: RetrievalData, on_bad_row: OnBadRow) -> pl.DataFrame | None:
    """Return the scored pairs that stand beside a data set's texts; None if it has a table of them, or none at all."""
    if part.scores is not None:
        return None
    frame = read_scored_retrieval(part.path, part.columns, on_bad_row=on_bad_row)
    pairs = scored_pairs(frame.head(part.limit or len(frame)))
    return None if pairs.is_empty() else pairs


def _write_scores(part: RetrievalData, pairs: pl.DataFrame, folder: Path) -> None:
    """Write the scored pairs of the training side, once its texts are there."""
    train = pl.read_parquet(_file(folder, part))
    texts = pl.concat([train["positive"].explode(), train["negative"].explode()])
    pairs_among(pairs, train["query"], texts).write_parquet(_scores_file(folder, part))


def _write_set(
    part: RetrievalData, rows: pl.DataFrame, corpus: pl.DataFrame, forbidden: pl.Series, folder: Path
) -> None:
    """Write both sides of one data set; held-out positives are no negatives of the training side."""
    train = rows.filter(role="training").select("query", "positive", "negative")
    train = train.with_columns(pl.col("negative").list.filter(~pl.element().is_in(forbidden.implode())))
    if train.is_empty():
        raise UserError(f"evaluation.hold_out: no pair of {part.name} is left to train on.")
    _file(folder, part).parent.mkdir(parents=True, exist_ok=True)
    train.write_parquet(_file(folder, part))
    if part.corpus is not None:
        corpus.filter(~pl.col("text").is_in(forbidden.implode())).write_parquet(_corpus_file(folder, part))
    for role in ROLES[1:]:
        pairs = rows.filter(role=role).select("query", text="positive").explode("text")
        pairs = pairs.join(corpus, on="text", maintain_order="left").select("query", "doc_id")
        if len(pairs):
            searched = corpus if role == "test" else development_corpus(corpus, pairs["doc_id"], _SEED)
            write_questions(folder / role, file_name(part.name), pairs, searched)
