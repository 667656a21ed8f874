"""Exact and near-duplicates over all shards, in bounded memory.

Each distinct text of a side has a key, MinHash bands and a sketch (`minhash.py`). Over all shards DuckDB then
 1. finds the keys that share a band, band by band, spilling to disk;
 2. pairs each with the first of its band, and compares their texts by the *exact* Jaccard similarity unless their
    sketches differ in too many bits; those that do not resemble the first go into another round, so that a false
    neighbour does not hide a true one;
 3. joins similar keys to groups (connected components).
A pair is a duplicate of an earlier pair when both its sides are in the same groups; equal keys are the special case
"exact". Then queries and positives that too many pairs share are thinned out. The pair with the lowest id stays, so the
outcome depends on the order of the sources and on nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from conan_embed.console import progress_bar
from conan_embed.filtering.grams import jaccard
from conan_embed.filtering.minhash import GRAM, SIDES, SKETCH, may_resemble, plain
from conan_embed.filtering.recipe import Duplicates
from conan_embed.filtering.stage import Outcome, split

REASONS = ("exact_duplicate", "near_duplicate", "query_repeats", "positive_repeats")
MAX_ROUNDS = 16
_BATCH = 20_000  # pairs of texts compared at a time


@dataclass(frozen=True)
class JoinResult:
    """Attributes:
    compared: candidate pairs of texts whose similarity was computed.
    similar: those with at least the threshold.
    undecided: texts in bands that were not empty after the last round (0 except for huge families of templates).
    dropped: pairs by reason.
    seconds: processor time.
    """

    compared: int
    similar: int
    undecided: int
    dropped: dict[str, int]
    seconds: float = 0.0


@dataclass(frozen=True)
class DropDuplicates:
    """The stage: drop what `find_duplicates` chose among a shard's pairs.

    Attributes:
        chosen: `id`, `dropped_by`, `value`, `duplicate_of`.
    """

    chosen: pl.DataFrame
    name: str = "duplicates"

    def __call__(self, pairs: pl.DataFrame) -> Outcome:
        marked = pairs.join(self.chosen, on="id", how="left", maintain_order="left")
        reasons = {reason: (pl.col("dropped_by") == reason, pl.col("value")) for reason in REASONS}
        outcome = split(marked, self.name, reasons)
        return replace(outcome, kept=outcome.kept.select(pairs.columns))


def find_duplicates(
    shards: Sequence[Path],
    out: Path,
    setting: Duplicates,
    *,
    memory: str,
    work: Path,
    threads: int | None = None,
) -> JoinResult:
    """Find the pairs to drop over all shards.

    Args:
        shards: folders with `pairs.parquet` (id, query, positive), `keys.parquet` and `texts.parquet` (see
            `minhash.fingerprints`), in the order of their numbers.
        out: a folder that gets `00000.parquet`, ... for the shards, in their order: `id`, `dropped_by` (one of
            REASONS), `value`, `duplicate_of`.
        memory: what DuckDB may hold, as in "2GB".
        work: a folder for what it spills.
        threads: None for one a core. A single one takes two thirds of the processor time of two.
    """
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    # In memory, up to the limit: what goes beyond is spilled. A database file would hold everything, compressed.
    with duckdb.connect(":memory:") as db:
        db.execute(f"set memory_limit = '{memory}'")
        db.execute(f"set temp_directory = '{work / 'spill'}'")
        if threads is not None:
            db.execute(f"set threads = {threads}")
        db.execute("set preserve_insertion_order = false")
        db.execute("set enable_progress_bar = false")
        db.execute("create table verified (side utinyint, a ubigint, b ubigint, similarity float)")
        db.execute('create table groups (side utinyint, key ubigint, "group" ubigint, similarity float)')
        compared = undecided = 0
        for number in range(len(SIDES)) if setting.near else ():
            counts = _compare_side(db, shards, number, setting)
            compared, undecided = compared + counts[0], undecided + counts[1]
            _group_side(db, number)
        _choose(db, _parquet(shards, "keys"), setting)
        _write_chosen(db, len(shards), out)
        dropped = db.execute("select dropped_by, count(*) from gone group by all order by all").fetchall()
        return JoinResult(compared, _one(db, "select count(*) from verified"), undecided, dict(dropped))


def _write_chosen(db: duckdb.DuckDBPyConnection, num_shards: int, out: Path) -> None:
    for number in range(num_shards):
        chosen = f"""select id, dropped_by, value, duplicate_of from gone
            where {_of_shard(number)} order by id"""
        _frame(db, chosen).write_parquet(out / f"{number:05d}.parquet")


def _parquet(shards: Sequence[Path], name: str) -> str:
    """Return the table, in SQL, of one file of all shards."""
    paths = (str(shard / f"{name}.parquet").replace("'", "''") for shard in shards)
    return "read_parquet([" + ", ".join(f"'{path}'" for path in paths) + "])"


def _one(db: duckdb.DuckDBPyConnection, query: str) -> int:
    return int(db.execute(query).fetchall()[0][0])  # a result that is not fetched would block the connection


def _frame(db: duckdb.DuckDBPyConnection, query: str) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(db.sql(query).to_arrow_table()))


def _compare_side(
    db: duckdb.DuckDBPyConnection,
    shards: Sequence[Path],
    number: int,
    setting: Duplicates,
) -> tuple[int, int]:
    """Fill `verified` for one side; return the number of comparisons and of texts that stayed undecided."""
    side = SIDES[number]
    _read_bands(db, _parquet(shards, "texts"), number, setting)
    _read_candidates(db, shards, side)
    db.execute("drop table fingerprints")
    db.execute("create or replace table tried (a ubigint, b ubigint)")
    compared = 0
    with progress_bar() as progress:
        task = progress.add_task(f"comparing {side} texts", total=None, note="")
        for round_ in range(MAX_ROUNDS):
            _pair_with_first(db, setting.threshold)
            count = _one(db, "select count(*) from likely")
            progress.update(task, total=compared + count, note=f"round {round_ + 1}")
            if count:
                _compare(db, number, setting.threshold, lambda done: progress.advance(task, done))
            compared += count
            if not _leave_undecided(db, number):
                break
    undecided = _one(
        db,
        "select count(distinct key) from bands where (band, hash) in "
        "(select (band, hash) from bands group by band, hash having count(*) > 1)",
    )
    return compared, undecided


def _read_bands(db: duckdb.DuckDBPyConnection, texts: str, number: int, setting: Duplicates) -> None:
    """Fill `bands` with the bands that several keys share, and `wanted` with those keys."""
    # One read of the shards, without the other side; from here on only texts of candidates are read.
    db.execute(f"create or replace table fingerprints as from {texts} where side = {number}")
    db.execute("create or replace table bands (band utinyint, hash uinteger, key ubigint)")
    with progress_bar() as progress:
        task = progress.add_task(f"bands of the {SIDES[number]} side", total=setting.bands, note="")
        for band in range(setting.bands):
            # A text has a row for each of its shards, so several rows with one hash may be the same text. Few hashes
            # have several rows, and only those are looked at further.
            db.execute(
                f"""insert into bands
                with often as (select band_{band} as hash from fingerprints group by hash having count(*) > 1),
                members as materialized (select distinct hash, key from fingerprints join often on band_{band} = hash),
                shared as (select hash from members group by hash having count(*) > 1)
                select {band}, hash, key from members semi join shared using (hash)"""
            )
            progress.advance(task)
    db.execute(
        f"""create or replace table wanted as
        select min(id) as id, key, any_value(columns(['grams', {", ".join(map(repr, SKETCH))}]))
        from fingerprints where key in (select key from bands) group by key"""
    )


def _pair_with_first(db: duckdb.DuckDBPyConnection, threshold: float) -> None:
    """Fill `firsts` with the first key of each band, and `likely` with the new pairs that may reach the threshold."""
    db.execute(
        """create or replace table firsts as
        select band, hash, min(key) as first from bands group by all having count(*) > 1"""
    )
    db.execute(
        """create or replace table edges as
        select distinct first as a, key as b from bands join firsts using (band, hash) where key <> first"""
    )
    db.execute("create or replace table edges as from edges anti join tried using (a, b)")
    db.execute("insert into tried from edges")
    db.execute(
        f"""create or replace table likely as
        select a, b, x.text as left_text, y.text as right_text
        from edges join candidates x on a = x.key join candidates y on b = y.key
        where {may_resemble("x", "y", threshold)}"""
    )


def _leave_undecided(db: duckdb.DuckDBPyConnection, number: int) -> int:
    """Reduce `bands` to the keys that another round must compare; return how many rows are left."""
    # The first of a band has been compared with all of it; what resembles it needs no further proof.
    db.execute(
        f"""create or replace table bands as
        with left_over as (select band, hash, key, first from bands join firsts using (band, hash)
                           where key <> first)
        select band, hash, key from left_over
        anti join (select a as first, b as key from verified where side = {number}) using (first, key)"""
    )
    return _one(db, "select count(*) from bands")


def _read_candidates(db: duckdb.DuckDBPyConnection, shards: Sequence[Path], side: str) -> None:
    """Fill `candidates`: `wanted` with their texts instead of ids.

    By polars, shard by shard, which decodes only the texts of the wanted rows: a third of the time of a join.
    """
    db.execute("create or replace table texts (id ubigint, text varchar)")
    for number, shard in enumerate(shards):
        ids = _frame(db, f"select id from wanted where {_of_shard(number)}")["id"]
        pairs = pl.scan_parquet(shard / "pairs.parquet").filter(pl.col("id").is_in(ids.implode()))
        _insert(db, "texts", pairs.select("id", side).collect())
    db.execute(
        """create or replace table candidates as
        select wanted.* exclude id, text from wanted join texts using (id)"""
    )
    db.execute("drop table texts")
    db.execute("drop table wanted")


def _of_shard(number: int) -> str:
    """Return the condition, in SQL, that an `id` belongs to a shard."""
    return f"id between {number << 32} and {(number << 32) + (1 << 32) - 1}"


def _compare(
    db: duckdb.DuckDBPyConnection, number: int, threshold: float, done: Callable[[int], None]
) -> None:
    """Compute the similarity of the likely pairs and add those with at least the threshold to `verified`."""
    similar = []
    for batch in db.sql("from likely").to_arrow_reader(_BATCH):
        frame = pl.DataFrame(pl.from_arrow(batch))
        similarity = jaccard(plain(frame["left_text"]), plain(frame["right_text"]), GRAM)
        frame = frame.select("a", "b", pl.Series("similarity", similarity, dtype=pl.Float32))
        similar.append(frame.filter(pl.Series(similarity >= threshold)))
        done(frame.height)
    if similar:
        side = pl.lit(number, dtype=pl.UInt8).alias("side")
        _insert(db, "verified", pl.concat(similar).select(side, "a", "b", "similarity"))


def _insert(db: duckdb.DuckDBPyConnection, table: str, rows: pl.DataFrame) -> None:
    db.register("new_rows", rows.to_arrow())
    db.execute(f"insert into {table} from new_rows")
    db.unregister("new_rows")


def _group_side(db: duckdb.DuckDBPyConnection, number: int) -> None:
    """Join similar keys to groups: connected components, each named after its lowest key."""
    edges = _frame(db, f"select a, b, similarity from verified where side = {number}")
    if not edges.height:
        return
    ends = np.concatenate([edges["a"].to_numpy(), edges["b"].to_numpy()])
    nodes, index = np.unique(ends, return_inverse=True)
    a, b = index[: edges.height], index[edges.height :]
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(len(nodes), len(nodes)))
    label = connected_components(graph, directed=False)[1]
    name = np.full(label.max() + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(name, label, nodes)
    best = np.zeros(len(nodes), np.float32)
    for end in (a, b):
        np.maximum.at(best, end, edges["similarity"].to_numpy())
    groups = pl.DataFrame(
        {
            "side": pl.Series([number] * len(nodes), dtype=pl.UInt8),
            "key": nodes,
            "group": name[label],
            "similarity": best,
        }
    )
    _insert(db, "groups", groups)


def _choose(db: duckdb.DuckDBPyConnection, keys: str, setting: Duplicates) -> None:
    """Fill `gone`: duplicates of earlier pairs, then pairs over the limits of either side."""
    db.execute(
        f"""create or replace table members as
        select k.id, k.query_key, k.positive_key,
               coalesce(q."group", k.query_key) as query_group, coalesce(p."group", k.positive_key) as
               positive_group, least(coalesce(q.similarity, 1), coalesce(p.similarity, 1)) as similarity
        from {keys} k
        left join (from groups where side = 0) q on q.key = k.query_key
        left join (from groups where side = 1) p on p.key = k.positive_key"""
    )
    db.execute(
        """create or replace table gone as
        with first as (select query_group, positive_group, min(id) as keep from members group by all having
             count(*) > 1), twin as (select m.*, keep from members m join first using (query_group,
             positive_group) where m.id <> keep)
        select t.id,
               case when t.query_key = k.query_key and t.positive_key = k.positive_key
                    then 'exact_duplicate' else 'near_duplicate' end as dropped_by,
               case when t.query_key = k.query_key and t.positive_key = k.positive_key
                    then 1.0 else t.similarity end::double as value,
               keep as duplicate_of
        from twin t join members k on k.id = t.keep"""
    )
    for side, limit in (("query", setting.max_per_query), ("positive", setting.max_per_positive)):
        if limit is not None:
            db.execute(
                f"""insert into gone
                with alive as (select id, {side}_group as g from members anti join gone using (id)),
                     crowded as (select g, count(*) as size, min(id) as keep from alive group by g having
                     count(*) > {limit}), ranked as (select id, size, keep, row_number() over (partition by g
                                order by id) as position from alive join crowded using (g))
                select id, '{side}_repeats', size::double, keep from ranked where position > {limit}"""
            )
