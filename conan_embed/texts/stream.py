"""Pairs read from Parquet shards while they are needed: hundreds of millions, of which a window is in memory.

At the start only the shards' footers are read: which row groups there are, and how many rows each holds. From then on
the pair at position p is a function of p, the seed and those counts, so that nothing is drawn, stored or saved:

    epoch    = p // rows                        each epoch, every row once
    windows  = the row groups in a permuted order, cut into runs of about `window` rows
    row      = the window's rows in a permuted order (texts/permutation.py)

Rows of one row group therefore come near each other: shuffled is what a window holds. Row groups that are small beside
the window (`conan-embed filter` writes 8,192 rows), or shards that were shuffled before, make that a good shuffle.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from conan_embed.console import tracked
from conan_embed.errors import UserError
from conan_embed.recipes.data import RetrievalData
from conan_embed.texts.checked_rows import CheckedRows, check_rows
from conan_embed.texts.columns import RETRIEVAL
from conan_embed.texts.permutation import permuted
from conan_embed.texts.readers import data_files, print_dropped
from conan_embed.texts.rows import columnar

_MAX_WINDOWS = 2  # a step may begin in one window and end in the next


@dataclass(frozen=True)
class _Order:
    """The windows of one epoch over G row groups.

    Attributes:
        group_G: the row groups in this epoch's order.
        start_G: int64, the position in the epoch at which each of them begins, ascending.
        window_G: int64, the window that each is in, ascending.
    """

    group_G: np.ndarray
    start_G: np.ndarray
    window_G: np.ndarray


class PairStream:
    """The pairs of one data set, read as they are needed.

    Args:
        data: name, path, columns and limit of the data set.
        window: rows that are shuffled among each other, and about as many are in memory (twice as many at a border).
        on_bad_row: "error" stops at a bad row, "drop" leaves it out of its step.
        log: whether this process prints what was dropped.

    Raises:
        UserError: no Parquet files, one that cannot be read or lacks a column, no rows.
    """

    def __init__(self, data: RetrievalData, window: int, on_bad_row: str, *, log: bool = True) -> None:
        self.name, self.weight = data.name, data.weight
        self.window, self.on_bad_row, self.log = window, on_bad_row, log
        self.schema = RETRIEVAL.with_names({**data.columns, "negative": []})
        self.files = data_files(data.path)
        footers = [_footer(file) for file in tracked(self.files, f"looking at {data.path}")]
        self.sources = [
            self.schema.sources(file, footer.schema.to_arrow_schema().names)
            for file, footer in zip(self.files, footers, strict=True)
        ]
        groups = [
            (number, index, rows)
            for number, footer in enumerate(footers)
            for index, rows in enumerate(_rows_of_groups(footer))
        ]
        self.file_G, self.index_G, self.whole_G = np.array(groups, np.int64).reshape(-1, 3).T
        before_G = np.cumsum(self.whole_G) - self.whole_G
        limit = self.whole_G.sum() if data.limit is None else data.limit
        self.rows_G = np.clip(limit - before_G, 0, self.whole_G)
        # From 1, as people count: the number in its file of each row group's first row.
        first_of_file = before_G[np.searchsorted(self.file_G, self.file_G)]
        self.first_G = before_G - first_of_file + 1
        self.used = np.flatnonzero(self.rows_G)
        if not len(self.used):
            raise UserError(f"{data.path}: found no rows, expected at least one.")
        self._orders: OrderedDict[tuple[int, ...], _Order] = OrderedDict()
        self._windows: OrderedDict[tuple[int, ...], _Window] = OrderedDict()
        self._logged: set[int] = set()  # row groups; every epoch reads them again

    def __len__(self) -> int:
        return int(self.rows_G.sum())

    def identity(self) -> str:
        """Return a hash of which row is which: the files' names and sizes and how many rows each row group has."""
        files = [(file.name, file.stat().st_size) for file in self.files]
        return xxhash.xxh3_128_hexdigest(repr((files, self.rows_G.tolist(), self.window)).encode())

    def take(self, visits: np.ndarray, *keys: int) -> pl.DataFrame:
        """Return the good rows at these positions of an endless sequence of shuffled epochs.

        Args:
            visits: int64 positions.
            keys: integers, such as the seed; other keys, another order.

        Returns:
            query: str, positive: list[str], visit: i64, in the order of `visits`.

        Raises:
            UserError: a bad row, unless they are dropped; a shard that cannot be read (any more).
        """
        epochs, positions = visits // len(self), visits % len(self)
        parts: list[pl.DataFrame] = []
        for epoch in np.unique(epochs):
            order = self._order(*keys, int(epoch))
            inside = np.flatnonzero(epochs == epoch)
            windows = order.window_G[np.searchsorted(order.start_G, positions[inside], side="right") - 1]
            for window in np.unique(windows):
                chosen = inside[windows == window]
                rows = self._window(order, int(window), *keys, int(epoch))
                start = order.start_G[np.searchsorted(order.window_G, window)]
                row = permuted(positions[chosen] - start, len(rows.good), *keys, int(epoch), int(window))
                good = rows.good[row]
                parts.append(
                    rows.frame[row[good]].with_columns(visit=pl.Series(visits[chosen[good]], dtype=pl.Int64))
                )
        return pl.concat(parts).sort("visit", maintain_order=True)

    def _order(self, *keys: int) -> _Order:
        if keys not in self._orders:
            group_G = self.used[permuted(np.arange(len(self.used)), len(self.used), *keys)]
            start_G = np.cumsum(self.rows_G[group_G]) - self.rows_G[group_G]
            _remember(self._orders, keys, _Order(group_G, start_G, start_G // self.window))
        return self._orders[keys]

    def _window(self, order: _Order, window: int, *keys: int) -> "_Window":
        key = (*keys, window)
        if key not in self._windows:
            # File by file; the order within a window is a permutation anyway.
            groups = np.sort(order.group_G[order.window_G == window])
            parts = [self._read(group) for group in groups]
            rows = _Window(
                pl.concat([part.frame for part in parts]), np.concatenate([part.good for part in parts])
            )
            _remember(self._windows, key, rows)
        self._windows.move_to_end(key)
        return self._windows[key]

    def _read(self, group: int) -> CheckedRows:
        """Read a row group and check its rows."""
        number = self.file_G[group]
        file, sources = self.files[number], self.sources[number]
        table = self._read_table(
            file, group, list(dict.fromkeys(name for names in sources.values() for name in names))
        )
        frame = pl.from_arrow(table.slice(0, self.rows_G[group]))
        assert isinstance(frame, pl.DataFrame)
        rows = check_rows(columnar(file, self.schema, sources, frame, int(self.first_G[group])), self.schema)
        if (first := rows.first_fault()) is not None:
            if self.on_bad_row == "error":
                raise UserError(f"{file}: {first}.")
            if self.log and group not in self._logged:
                self._logged.add(group)
                print_dropped(file, rows.num_rows, rows.reasons, first)
        return rows

    def _read_table(self, file: Path, group: int, columns: list[str]) -> pa.Table:
        """Read columns of a row group, if the file still is what it was at the start."""
        expected = self.whole_G[self.file_G == self.file_G[group]]
        try:
            with pq.ParquetFile(file) as parquet:
                found = _rows_of_groups(parquet.metadata)
                if found != expected.tolist():
                    raise UserError(
                        f"{file}: found {sum(found):,} rows in {len(found)} row groups, expected {expected.sum():,} in "
                        f"{len(expected)} as at the start: the file changed."
                    )
                return parquet.read_row_group(int(self.index_G[group]), columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{file}: cannot be read: {_first_line(error)}.") from error


@dataclass(frozen=True)
class _Window:
    """Rows in memory; `good` is bool [rows]."""

    frame: pl.DataFrame
    good: np.ndarray


def _remember(newest: "OrderedDict[tuple[int, ...], Any]", key: tuple[int, ...], value: Any) -> None:
    newest[key] = value
    while len(newest) > _MAX_WINDOWS:
        newest.popitem(last=False)


def _rows_of_groups(footer: pq.FileMetaData) -> list[int]:
    return [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]


def _footer(file: Path) -> pq.FileMetaData:
    if file.suffix != ".parquet":
        raise UserError(
            f"{file}: data.stream reads Parquet shards only, as conan-embed filter writes them; "
            "expected a .parquet file."
        )
    try:
        return pq.read_metadata(file)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file}: cannot be read: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
