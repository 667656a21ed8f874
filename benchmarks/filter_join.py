"""Memory and time of the join that finds duplicates, at sizes that nobody has texts for at hand.

    python -m benchmarks.filter_join --pairs 5000000 [--memory 1.5GB]

Writes shards of made-up pairs whose keys and bands are drawn instead of computed (one in ten texts repeats an earlier
one, one in ten shares half its bands with one and is compared with it), runs `find_duplicates` over them and prints the
highest resident memory of the process and the time. The texts are short, so reading them is not what is measured.
"""

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402

from conan_embed.filtering.duplicates import find_duplicates  # noqa: E402
from conan_embed.filtering.minhash import SIDES, SKETCH  # noqa: E402
from conan_embed.filtering.recipe import Duplicates  # noqa: E402

SHARD = 250_000


def write_shard(folder: Path, number: int, rng: np.random.Generator, setting: Duplicates) -> None:
    """Write `pairs`, `keys` and `texts` as `fingerprints` would for 250,000 pairs."""
    folder.mkdir(parents=True)
    ids = (np.uint64(number) << np.uint64(32)) + np.arange(SHARD, dtype=np.uint64)
    keys, texts = {"id": pl.Series(ids)}, []
    for side_number, side in enumerate(SIDES):
        own = np.arange(number * SHARD, (number + 1) * SHARD)
        kind = rng.random(SHARD)
        original = np.where(kind < 0.1, rng.integers(0, own + 1), own)
        key = (original.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        # Bands are drawn from the text's number, so that a repeated text has the bands of the first.
        band = (key[:, None] ^ np.arange(setting.bands, dtype=np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        band = (band >> np.uint64(32)).astype(np.uint32)
        near = (kind >= 0.1) & (kind < 0.2)
        earlier = (rng.integers(0, own + 1).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        theirs = (earlier[:, None] ^ np.arange(setting.bands, dtype=np.uint64)) * np.uint64(
            0xBF58476D1CE4E5B9
        )
        half = setting.bands // 2
        band[near, :half] = (theirs[near, :half] >> np.uint64(32)).astype(np.uint32)
        keys[f"{side}_key"] = pl.Series(key)
        frame = pl.DataFrame({"side": np.full(SHARD, side_number, np.uint8), "key": key, "id": ids})
        # Equal sketches: all that share a band are compared.
        sketch = [pl.Series(name, np.full(SHARD, 1, np.uint64)) for name in SKETCH]
        bands = [pl.Series(f"band_{i}", band[:, i]) for i in range(setting.bands)]
        grams = pl.Series("grams", np.full(SHARD, 20, np.uint32))
        texts.append(frame.hstack([grams, *sketch, *bands]).unique("key", keep="first"))
        keys[side] = pl.Series(original).cast(pl.String) + " is the number of this text"
    pairs = pl.DataFrame(keys)
    pairs.select("id", *SIDES).write_parquet(folder / "pairs.parquet")
    pairs.select("id", "query_key", "positive_key").write_parquet(folder / "keys.parquet")
    pl.concat(texts).write_parquet(folder / "texts.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5_000_000)
    parser.add_argument("--memory", default="1.5GB")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    rng, setting = np.random.default_rng(0), Duplicates()
    shards = [folder / f"{number:05d}" for number in range(-(-arguments.pairs // SHARD))]
    for number, shard in enumerate(shards):
        write_shard(shard, number, rng, setting)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wall, spent = time.perf_counter(), time.process_time()
    found = find_duplicates(shards, folder / "out", setting, memory=arguments.memory, work=folder / "work")
    wall, spent = time.perf_counter() - wall, time.process_time() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**30
    sys.stdout.write(
        f"{len(shards) * SHARD:,} pairs, DuckDB at {arguments.memory}: peak {peak:,.0f} MiB (writing the shards "
        f"{before:,.0f}), {wall:.0f} s wall, {spent:.0f} s processor, {disk:.1f} GiB left on disk; {found}\n"
    )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
