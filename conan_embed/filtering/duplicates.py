"""Exact and near-duplicates over all shards, in bounded memory.

How it works. Each side of each pair has a key (a hash of its text without case, white space and punctuation)
and, once for each distinct key of a shard, MinHash bands over its character 5-grams and a sketch of 256 bits, one or
more of them set by each 5-gram. Over all shards DuckDB then
 1. finds the keys that share a band (band by band, spilling to disk),
 2. pairs each with the first of its band and, unless their sketches differ in too many bits for that to be any use,
    compares their texts by the *exact* Jaccard similarity (the rest of a band goes round again, so a false neighbour
    does not hide a true one),
 3. joins similar keys to groups (connected components).
A pair is a duplicate of an earlier pair when both its sides are in the same groups; equal keys are the
special case "exact". Then queries and positives that too many pairs share are thinned out. The pair with the
lowest id stays, so the outcome depends on the order of the sources and on nothing else.

Letters of the shapes: N texts, G 5-grams of all of them, K values of a MinHash.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from xxhash import xxh3_64_intdigest

from conan_embed.console import progress_bar
from conan_embed.filtering.measures import chunks, code_points, decoded, hash_grams, jaccard
from conan_embed.filtering.recipe import Duplicates
from conan_embed.texts.ragged import expand_ranges

GRAM = 5  # characters
SIDES = ("query", "positive")
SKETCH = tuple(f"sketch_{i}" for i in range(4))  # words of 64 bits
_ROUNDS = 16  # comparisons with another first of the band; what is left then is counted in `Found.undecided`
_BATCH = 20_000  # pairs of texts compared at a time
_CHUNK = 1 << 17  # gram hashes worked on at a time, so that the minima stay in the cache
_PIECE = 1 << 15  # hashes of further rounds worked on at a time
_GATHERED = 1 << 20  # gram hashes whose bands are found together, so that many short texts share their rounds
_SALT = np.uint64(0x9E3779B97F4A7C15)
# A text is cut into so many (gram, round) hashes for each of its K values, at least. The share of values that get none,
# exp(-3), is then small enough for bands of such values alone to be rare.
_HASHES_A_VALUE = 3


@cache
def _plain_point() -> np.ndarray:
    """Return what each code point becomes in a plain text, 0 where it goes: uint32 [0x110000]."""
    known = np.concatenate([np.arange(0xD800), np.arange(0xE000, 0x34000), np.arange(0xE0000, 0xE1000)])
    characters = pl.Series(list(known.astype(np.uint32).tobytes().decode("utf-32-le")))
    lower = pl.Series(pc.utf8_lower(characters.to_arrow()), dtype=pl.String)  # one character for each
    stays = lower.str.contains(r"^[\p{L}\p{M}\p{N}\p{S}#%]$").to_numpy()
    point = np.zeros(0x110000, np.uint32)
    point[known] = np.where(stays, code_points(lower)[0], 0)
    return point


def _plain_points(texts: pl.Series) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the code points and offsets (see `measures.code_points`) of the plain texts, chunk by chunk."""
    for _, points_C, offsets in decoded(texts):
        plain_C = np.take(_plain_point(), points_C, mode="clip")  # half the time of checked bounds
        stays_C = plain_C != 0
        place = np.flatnonzero(stays_C)
        ends = np.searchsorted(place, offsets)
        bare = np.flatnonzero((np.diff(ends) == 0) & (np.diff(offsets) > 0))
        if len(bare):  # nothing else tells them apart: they stay as they are
            for text in bare:
                whole = slice(offsets[text], offsets[text + 1])
                plain_C[whole], stays_C[whole] = points_C[whole], True
            place = np.flatnonzero(stays_C)
            ends = np.searchsorted(place, offsets)
        yield plain_C[place], ends


def plain(texts: pl.Series) -> pl.Series:
    """Return the texts as duplicates see them: lower case, only letters, digits, and the symbols that carry
    meaning (C++, C#).
    """
    found: list[str] = []
    for points_C, offsets in _plain_points(texts):
        every, ends = points_C.tobytes().decode("utf-32-le"), offsets.tolist()
        found += (every[start:end] for start, end in pairwise(ends))
    return pl.Series(texts.name, found, dtype=pl.String)


def keys(points_C: np.ndarray, offsets: np.ndarray) -> list[int]:
    """Return a key of each (plain) text, 64 bits: XXH3 of its UTF-8, so equal texts have equal keys on every machine.

    Args:
        points_C, offsets: of `measures.code_points`.
    """
    encoded = memoryview(points_C.tobytes().decode("utf-32-le").encode())
    # How many more bytes than one a character has.
    more = (
        (points_C > 0x7F).view(np.int8) + (points_C > 0x7FF).view(np.int8) + (points_C > 0xFFFF).view(np.int8)
    )
    so_far = np.zeros(len(points_C) + 1, np.int64)
    np.cumsum(more, out=so_far[1:])
    ends = offsets + so_far[offsets]
    return [xxh3_64_intdigest(encoded[start:end]) for start, end in pairwise(ends.tolist())]


def signatures(hashes: np.ndarray, offsets: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """Return the MinHash bands of texts: uint32 [N, bands], each a hash of `rows` minima.

    One permutation instead of K = bands * rows of them: a gram's hash chooses one of the K values and competes there,
    so a gram costs one operation instead of K. A text with few grams sends each through several rounds of hashing,
    until there are three hashes a value; earlier rounds win, so that it does not matter how many rounds a similar text
    takes. A value for which nobody competes is the largest number, and as good as any: two texts have it in common
    where neither has a gram there.

    Args:
        hashes: uint64 [G], well mixed.
        offsets: int64 [N + 1], where each text's grams start; every text has one.
    """
    out = np.empty((len(offsets) - 1, bands), np.uint32)
    for part in chunks(np.maximum(np.diff(offsets), _HASHES_A_VALUE * bands * rows), _GATHERED):
        bounds = offsets[part.start : part.stop + 1]
        minima = _minima(hashes[bounds[0] : bounds[-1]], bounds - bounds[0], bands * rows)
        minima = minima.reshape(-1, bands, rows)
        mixed = np.zeros(minima.shape[:2], np.uint64)
        for row in range(rows):
            mixed = (mixed ^ minima[:, :, row]) * _SALT
            mixed ^= mixed >> np.uint64(31)
        out[part] = mixed.astype(np.uint32)
    return out


def _minima(hashes: np.ndarray, offsets: np.ndarray, values: int) -> np.ndarray:
    """Return the lowest hash that competes for each value of each text: uint32 [N * K]."""
    count, wanted = np.diff(offsets), _HASHES_A_VALUE * values
    minima = np.full(len(count) * values, np.iinfo(np.uint32).max, np.uint32)
    first = np.arange(0, len(minima), values, dtype=np.uint64)  # value of each text
    for part in chunks(np.maximum(count, wanted), _CHUNK):
        own = slice(offsets[part.start], offsets[part.stop])
        _compete(minima, values, np.repeat(first[part], count[part]), hashes[own], np.uint32(0))
    # Texts of few grams, those together that take the same number of further rounds: all rounds are one array then.
    more = -(-wanted // count) - 1
    texts = np.argsort(more, kind="stable")[np.count_nonzero(more == 0) :]
    sizes = count[texts]
    hashes, start = hashes[expand_ranges(offsets[texts], sizes)], np.repeat(first[texts], sizes)
    grams_of_rounds = np.bincount(more[texts], sizes).astype(np.int64)
    ends = np.cumsum(grams_of_rounds).tolist()
    for rounds in np.flatnonzero(grams_of_rounds).tolist():
        round_ = np.arange(1, rounds + 1, dtype=np.uint64)[:, None]
        weight = np.minimum(round_, 255).astype(np.uint32)
        step = max(_PIECE // rounds, 1)
        for at in range(ends[rounds - 1], ends[rounds], step):
            piece = slice(at, min(at + step, ends[rounds]))
            again = hashes[piece] ^ (round_ * _SALT)
            again *= np.uint64(0xBF58476D1CE4E5B9)
            again ^= again >> np.uint64(32)
            again *= np.uint64(0x94D049BB133111EB)
            again ^= again >> np.uint64(29)
            _compete(minima, values, start[piece], again, weight)
    return minima


def _compete(
    minima: np.ndarray, values: int, start: np.ndarray, hashes: np.ndarray, round_: np.ndarray | np.uint32
) -> None:
    """Let hashes compete: the upper half of one chooses the value, its round and then its lowest 24 bits decide."""
    place = hashes >> np.uint64(32)
    place *= np.uint64(values)
    place >>= np.uint64(32)
    place += start
    weight = hashes.astype(np.uint32)
    weight &= np.uint32(0xFFFFFF)
    weight |= round_ << np.uint32(24)
    np.minimum.at(minima, place.view(np.int64).ravel(), weight.ravel())


def sketches(hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return 256 bits of each text, of which every gram sets one: uint64 [N, 4]. See `may_resemble`."""
    bits = 64 * len(SKETCH)
    out = np.empty((len(offsets) - 1, len(SKETCH)), np.uint64)
    for part in chunks(np.maximum(np.diff(offsets), bits), _CHUNK):
        bounds = offsets[part.start : part.stop + 1]
        start = np.repeat(np.arange(0, bits * (len(bounds) - 1), bits), np.diff(bounds))
        grid = np.zeros(bits * (len(bounds) - 1), bool)
        grid[start + (hashes[bounds[0] : bounds[-1]] & np.uint64(bits - 1)).astype(np.int64)] = True
        out[part] = np.packbits(grid).view(np.uint64).reshape(-1, len(SKETCH))
    return out


def may_resemble(one: str, two: str, threshold: float) -> str:
    """Return a condition in SQL that holds wherever two texts have at least this Jaccard similarity, and seldom else.

    A bit that only one of two sketches has is a gram that only that text has, so the bits that differ bound the
    symmetric difference D of the sets of grams from below; and J = (A + B - D) / (A + B + D), so J >= t means
    D <= (A + B) (1 - t) / (1 + t). `grams` counts repeated grams too, so it bounds A and B from above.

    Args:
        one, two: names of tables with `grams` and SKETCH.
    """
    different = " + ".join(f"bit_count(xor({one}.{word}, {two}.{word}))::integer" for word in SKETCH)
    most = (1 - threshold) / (1 + threshold)
    # The thousandth is for rounding, where the similarity is the threshold itself.
    return f"{different} <= ({one}.grams + {two}.grams) * {most!r}::double + 0.001"


def fingerprints(
    pairs: pl.DataFrame, setting: Duplicates, *, near: bool = True
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return what the search for duplicates, and for evaluation texts, needs of one shard.

    Returns:
        keys: `id`, `query_key`, `positive_key` (UInt64), one row a pair.
        texts: `side` (UInt8, place in SIDES), `key`, `id` of the first pair with it, and, where `near` is true,
            `grams` (UInt32, their number), SKETCH (UInt64), `band_0`, ... (UInt32); one row a distinct key and side.
    """
    key_of_pair, texts = [pairs["id"]], []
    for number, side in enumerate(SIDES):
        key_of_row, columns = _fingerprints_of_side(pairs[side], setting, near)
        key_of_pair.append(key_of_row.alias(f"{side}_key"))
        place = pl.lit(number, dtype=pl.UInt8).alias("side")
        first = pairs["id"].gather(columns["row"])
        texts.append(columns.select(place, "key", first, pl.exclude("key", "row")))
    return pl.DataFrame(key_of_pair), pl.concat(texts)


def _fingerprints_of_side(
    texts: pl.Series, setting: Duplicates, near: bool
) -> tuple[pl.Series, pl.DataFrame]:
    """Return the key of each text; and of each distinct key `key`, its first `row`, and what `near` adds.

    Chunk by chunk, so that plain texts and their grams, many times the size of what is kept, never leave the cache.
    """
    key_of_row: list[int] = []
    first_row: dict[int, int] = {}
    gathered = [hash_grams(*code_points(texts.clear()), GRAM)]
    resemblance = []
    for points_C, offsets in _plain_points(texts):
        start = len(key_of_row)
        key_of_row += keys(points_C, offsets)
        fresh = [first_row.setdefault(key, row) == row for row, key in enumerate(key_of_row[start:], start)]
        if near and any(fresh):
            if not all(fresh):
                lengths = np.diff(offsets)
                points_C = points_C[np.repeat(fresh, lengths)]
                offsets = np.concatenate(([0], np.cumsum(lengths[fresh])))
            gathered.append(hash_grams(points_C, offsets, GRAM))
            if sum(len(hashes) for hashes, _ in gathered) >= _GATHERED:
                resemblance.append(_resemblance(gathered, setting))
                gathered.clear()
    if gathered:
        resemblance.append(_resemblance(gathered, setting))
    columns = [
        pl.Series("key", list(first_row), dtype=pl.UInt64),
        pl.Series("row", list(first_row.values()), dtype=pl.UInt32),
    ]
    if near:
        num_grams, sketch, bands = (np.concatenate(parts) for parts in zip(*resemblance, strict=True))
        columns += [
            pl.Series("grams", num_grams, dtype=pl.UInt32),
            *(pl.Series(name, sketch[:, i]) for i, name in enumerate(SKETCH)),
            *(pl.Series(f"band_{i}", bands[:, i]) for i in range(setting.bands)),
        ]
    return pl.Series(key_of_row, dtype=pl.UInt64), pl.DataFrame(columns)


def _resemblance(
    gathered: list[tuple[np.ndarray, np.ndarray]], setting: Duplicates
) -> tuple[np.ndarray, ...]:
    """Return of each text, given by its grams, their number, the sketch, and the bands."""
    hashes = np.concatenate([hashes for hashes, _ in gathered])
    counts = np.concatenate([np.diff(offsets) for _, offsets in gathered])
    offsets = np.concatenate(([0], np.cumsum(counts)))
    return counts, sketches(hashes, offsets), signatures(hashes, offsets, setting.bands, setting.rows)


@dataclass(frozen=True)
class Found:
    """Attributes:
    compared: candidate text pairs whose similarity was computed, since their sketches allowed it.
    similar: those at the threshold or above.
    undecided: texts in bands that were still not empty after the last round (0 but for huge families of
        templates).
    dropped: pairs by reason.
    """

    compared: int
    similar: int
    undecided: int
    dropped: dict[str, int]


def _names(paths: Sequence[Path]) -> str:
    return "[" + ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths) + "]"


def find_duplicates(
    shards: Sequence[Path],
    out: Path,
    setting: Duplicates,
    *,
    memory: str,
    work: Path,
    threads: int | None = None,
) -> Found:
    """Find the pairs to drop over all shards.

    Args:
        shards: folders with `pairs.parquet` (id, query, positive), `keys.parquet` and `texts.parquet` (see
            `fingerprints`), in the order of their numbers.
        out: a folder that gets `00000.parquet`, ... for the shards, in their order: `id`, `dropped_by` (one
            of `exact_duplicate`, `near_duplicate`, `query_repeats`, `positive_repeats`), `value`,
            `duplicate_of`.
        memory: what DuckDB may hold, as in "2GB".
        work: a folder for what it spills.
        threads: how many it may use; null for one a core. One alone takes two thirds of the processor time of two.
    """
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    # In memory, up to the limit: what goes beyond is spilled. A database in a file would write everything, compressed.
    with duckdb.connect(":memory:") as db:
        db.execute(f"set memory_limit = '{memory}'")
        db.execute(f"set temp_directory = '{work / 'spill'}'")
        if threads is not None:
            db.execute(f"set threads = {threads}")
        db.execute("set preserve_insertion_order = false")
        db.execute("set enable_progress_bar = false")
        sources = {
            name: f"read_parquet({_names([shard / f'{name}.parquet' for shard in shards])})"
            for name in ("keys", "texts")
        }
        db.execute("create table verified (side utinyint, a ubigint, b ubigint, similarity float)")
        db.execute('create table groups (side utinyint, key ubigint, "group" ubigint, similarity float)')
        compared = undecided = 0
        if setting.near:
            for number in range(len(SIDES)):
                one = _compare_side(db, shards, sources["texts"], number, setting)
                compared += one[0]
                undecided += one[1]
                _group_side(db, number)
        similar = _one(db, "select count(*) from verified")
        _choose(db, sources["keys"], setting)
        for number in range(len(shards)):
            chosen = f"""select id, dropped_by, value, duplicate_of from gone
                where {_of_shard(number)} order by id"""
            _frame(db, chosen).write_parquet(out / f"{number:05d}.parquet")
        counts = dict(
            db.execute("select dropped_by, count(*) from gone group by all order by all").fetchall()
        )
    return Found(compared, similar, undecided, counts)


def _one(db: duckdb.DuckDBPyConnection, query: str) -> int:
    return int(
        db.execute(query).fetchall()[0][0]
    )  # fetchall, since a result half read would block the connection


def _frame(db: duckdb.DuckDBPyConnection, query: str) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(db.sql(query).to_arrow_table()))


def _compare_side(
    db: duckdb.DuckDBPyConnection,
    shards: Sequence[Path],
    texts_source: str,
    number: int,
    setting: Duplicates,
) -> tuple[int, int]:
    """Fill `verified` for one side; return how many comparisons were made and how many texts stayed
    undecided.
    """
    side = SIDES[number]
    # One read of the shards, without the other side; from here on only texts of candidates are read.
    db.execute(f"create or replace table fingerprints as from {texts_source} where side = {number}")
    db.execute("create or replace table bands (band utinyint, hash uinteger, key ubigint)")
    with progress_bar() as progress:
        task = progress.add_task(f"bands of the {side} side", total=setting.bands, note="")
        for band in range(setting.bands):
            # A text has a row for each shard that it is in, so a hash of several rows may be that of one text. Few have
            # several, and only theirs are looked at further.
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
    _read_candidates(db, shards, side)
    db.execute("drop table fingerprints")
    db.execute("create or replace table tried (a ubigint, b ubigint)")
    compared = 0
    with progress_bar() as progress:
        task = progress.add_task(f"comparing {side} texts", total=None, note="")
        for round_ in range(_ROUNDS):
            db.execute(
                """create or replace table firsts as
                select band, hash, min(key) as first from bands group by all having count(*) > 1"""
            )
            db.execute(
                """create or replace table edges as
                select distinct first as a, key as b from bands join firsts using (band, hash) where key <>
                first"""
            )
            db.execute("create or replace table edges as from edges anti join tried using (a, b)")
            db.execute("insert into tried from edges")
            db.execute(
                f"""create or replace table likely as
                select a, b, x.text as left_text, y.text as right_text
                from edges join candidates x on a = x.key join candidates y on b = y.key
                where {may_resemble("x", "y", setting.threshold)}"""
            )
            fresh = _one(db, "select count(*) from likely")
            progress.update(task, total=compared + fresh, note=f"round {round_ + 1}")
            if fresh:
                _compare(db, number, setting.threshold, lambda done: progress.advance(task, done))
            compared += fresh
            # A band's first has met wait; who resembles it needs no further proof.
            db.execute(
                f"""create or replace table bands as
                with left_over as (select band, hash, key, first from bands join firsts using (band, hash)
                                   where key <> first)
                select band, hash, key from left_over
                anti join (select a as first, b as key from verified where side = {number}) using (first,
                key)"""
            )
            if not _one(db, "select count(*) from bands"):
                break
    undecided = _one(
        db,
        "select count(distinct key) from bands where (band, hash) in "
        "(select (band, hash) from bands group by band, hash having count(*) > 1)",
    )
    return compared, undecided


def _read_candidates(db: duckdb.DuckDBPyConnection, shards: Sequence[Path], side: str) -> None:
    """Fill `candidates`: `wanted` with their texts instead of ids.

    By polars, shard by shard, which decodes the texts of wanted rows alone: a third of the time of a join with all.
    """
    db.execute("create or replace table texts (id ubigint, text varchar)")
    for number, shard in enumerate(shards):
        ids = _frame(db, f"select id from wanted where {_of_shard(number)}")["id"]
        pairs = pl.scan_parquet(shard / "pairs.parquet").filter(pl.col("id").is_in(ids.implode()))
        db.register("found", pairs.select("id", side).collect().to_arrow())
        db.execute("insert into texts from found")
        db.unregister("found")
    db.execute(
        """create or replace table candidates as
        select wanted.* exclude id, text from wanted join texts using (id)"""
    )
    db.execute("drop table texts")
    db.execute("drop table wanted")


def _of_shard(number: int) -> str:
    """Return the condition in SQL that an `id` is of a shard."""
    return f"id between {number << 32} and {(number << 32) + (1 << 32) - 1}"


def _compare(
    db: duckdb.DuckDBPyConnection, number: int, threshold: float, done: Callable[[int], None]
) -> None:
    """Compute the similarity of all likely ones and add those at the threshold or above to `verified`."""
    found = []
    for batch in db.sql("from likely").to_arrow_reader(_BATCH):
        frame = pl.DataFrame(pl.from_arrow(batch))
        near = jaccard(plain(frame["left_text"]), plain(frame["right_text"]), GRAM)
        frame = frame.select("a", "b", pl.Series("similarity", near, dtype=pl.Float32))
        found.append(frame.filter(pl.Series(near >= threshold)))
        done(frame.height)
    if found:
        rows = pl.concat(found).select(pl.lit(number, dtype=pl.UInt8).alias("side"), "a", "b", "similarity")
        db.register("found", rows.to_arrow())
        db.execute("insert into verified from found")
        db.unregister("found")


def _group_side(db: duckdb.DuckDBPyConnection, number: int) -> None:
    """Join similar keys to groups: connected components, each named by its lowest key."""
    edges = _frame(db, f"select a, b, similarity from verified where side = {number}")
    if not edges.height:
        return
    nodes, places = np.unique(
        np.concatenate([edges["a"].to_numpy(), edges["b"].to_numpy()]), return_inverse=True
    )
    a, b = places[: edges.height], places[edges.height :]
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(len(nodes), len(nodes)))
    label = connected_components(graph, directed=False)[1]
    name = np.full(label.max() + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(name, label, nodes)
    best = np.zeros(len(nodes), np.float32)
    for ends in (a, b):
        np.maximum.at(best, ends, edges["similarity"].to_numpy())
    groups = pl.DataFrame(
        {
            "side": pl.Series([number] * len(nodes), dtype=pl.UInt8),
            "key": nodes,
            "group": name[label],
            "similarity": best,
        }
    )
    db.register("found", groups.to_arrow())
    db.execute("insert into groups from found")
    db.unregister("found")


def _choose(db: duckdb.DuckDBPyConnection, keys_source: str, setting: Duplicates) -> None:
    """Fill `gone`: duplicates of earlier pairs, then pairs over the limits of either side."""
    db.execute(
        f"""create or replace table members as
        select k.id, k.query_key, k.positive_key,
               coalesce(q."group", k.query_key) as query_group, coalesce(p."group", k.positive_key) as
               positive_group, least(coalesce(q.similarity, 1), coalesce(p.similarity, 1)) as similarity
        from {keys_source} k
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
    for side, limit in (("query", setting.query_at_most), ("positive", setting.positive_at_most)):
        if limit is not None:
            db.execute(
                f"""insert into gone
                with alive as (select id, {side}_group as g from members anti join gone using (id)),
                     crowded as (select g, count(*) as size, min(id) as keep from alive group by g having
                     count(*) > {limit}), ranked as (select id, size, keep, row_number() over (partition by g
                                order by id) as place from alive join crowded using (g))
                select id, '{side}_repeats', size::double, keep from ranked where place > {limit}"""
            )
