"""A text is an integer.

Every text of a run is de-duplicated, tokenised once and kept in memory-mapped arrays. From then on examples, rankings
and negatives are arrays of text ids: nothing is tokenised in the training loop, a text that occurs twice in a step is
encoded once, and a false negative is found by comparing integers.

One text under two prompts ("query: x", "passage: x") is two text ids, since its tokens differ, with one *content* id.

    folder of a store      tokens.npy   int32 [all tokens]     offsets.npy       int64 [texts + 1]
                           content.npy  int64 [texts]          characters.npy    uint8, the texts in UTF-8
                           character_offsets.npy int64 [texts + 1]
                           hashes.npy   uint64 [texts], xxh3 of each text without its prompt

The folder's name is a hash of everything that went in (texts, prompts, tokenizer, max length), so a second run on the
same data maps the files of the first, and several machines may write one store to a shared disk at the same time.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import xxhash

from conan_embed.console import tracked
from conan_embed.files import atomic_write

Tokenize = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
"""Texts to int32 tokens end to end and int64 offsets [N + 1] (see `EmbeddingModel.tokenize`)."""

_ARRAYS = ("tokens", "offsets", "content", "hashes", "characters", "character_offsets")
_TEXTS_PER_BATCH = 16_384


class Texts:
    """Tokenised texts, by text id 0 .. N-1.

    Attributes:
        tokens: int32, all tokens end to end; those of text t are tokens[offsets[t]:offsets[t + 1]].
        offsets: int64 [N + 1].
        content: int64 [N], the same for texts that differ in their prompt only.
    """

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray, content: np.ndarray) -> None:
        self.tokens, self.offsets, self.content = tokens, offsets, content

    def __len__(self) -> int:
        return len(self.content)

    def lengths(self, text_ids: np.ndarray) -> np.ndarray:
        """Return int64 tokens per text."""
        return self.offsets[text_ids + 1] - self.offsets[text_ids]


class TextStore(Texts):
    """The texts of a run; arrays are memory-mapped and shared by all processes of a machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        super().__init__(arrays["tokens"], np.asarray(arrays["offsets"]), np.asarray(arrays["content"]))
        self.hashes: np.ndarray = np.asarray(arrays["hashes"])
        self._characters = arrays["characters"]
        self._character_offsets = np.asarray(arrays["character_offsets"])

    def __reduce__(self) -> tuple[type["TextStore"], tuple[Path]]:
        return TextStore, (self.folder,)  # another process maps the files itself

    def identity(self) -> str:
        """Return a hash of which text has which id (whatever its tokens are): what tables of text ids depend on."""
        return xxhash.xxh3_128_hexdigest(self.hashes.tobytes())

    def text(self, text_id: int) -> str:
        """Return the text itself, without its prompt."""
        start, stop = self._character_offsets[text_id : text_id + 2]
        return self._characters[start:stop].tobytes().decode()


class TextStoreBuilder:
    """Collects columns of texts; `build` makes a store of them, `hold` keeps them in memory; both turn every column
    into text ids."""

    def __init__(self) -> None:
        self._columns: list[pl.DataFrame] = []

    def add(self, texts: pl.Series, prompt: str) -> int:
        """Take a column of texts that will be read with `prompt` before them; return a handle for `build`'s result."""
        frame = pl.DataFrame({"text": texts.cast(pl.String)}).with_columns(prompt=pl.lit(prompt))
        self._columns.append(frame)
        return len(self._columns) - 1

    def build(
        self, cache: Path, tokenize: Tokenize, *, fingerprint: str
    ) -> tuple[TextStore, list[np.ndarray]]:
        """Tokenise what is not in the cache yet.

        Args:
            cache: folder of all stores.
            tokenize: see `Tokenize`.
            fingerprint: whatever else changes the tokens: the tokenizer's own state and the max length.

        Returns:
            the store, and one int64 array of text ids per `add`, in its order.
        """
        unique, parts = self._numbered()
        hashes = np.fromiter(
            map(xxhash.xxh3_64_intdigest, unique["text"].cast(pl.Binary)), np.uint64, len(unique)
        )
        key = xxhash.xxh3_128(json.dumps([fingerprint, unique["prompt"].rle().to_list()]).encode())
        key.update(hashes.tobytes())
        folder = cache / "texts" / key.hexdigest()
        if not (folder / "texts.json").exists():
            _write_store(folder, unique, hashes, tokenize)
        return TextStore(folder), parts

    def hold(self, tokenize: Tokenize) -> tuple[Texts, list[np.ndarray]]:
        """Tokenise everything now, for texts that are needed once; the same result as `build`, without a folder."""
        unique, parts = self._numbered()
        tokens, offsets = tokenize(_as_read(unique))
        return Texts(tokens, offsets, _contents(unique)), parts

    def _numbered(self) -> tuple[pl.DataFrame, list[np.ndarray]]:
        """Return the different texts with their prompts, in order of text ids, and every column as text ids."""
        rows = pl.concat(self._columns) if self._columns else pl.DataFrame({"text": [], "prompt": []})
        unique = rows.unique(maintain_order=True).with_row_index("id")
        ids = rows.join(unique, on=["text", "prompt"], how="left", maintain_order="left")["id"].to_numpy()
        ends = np.cumsum([len(column) for column in self._columns])
        return unique, np.split(ids.astype(np.int64), ends[:-1]) if len(ends) else []


def _contents(unique: pl.DataFrame) -> np.ndarray:
    """Return int64, a number for each text that is the same whatever its prompt, counted as the texts come."""
    contents = unique.select("text").unique(maintain_order=True).with_row_index("content")
    joined = unique.join(contents, on="text", how="left", maintain_order="left")
    return joined["content"].to_numpy().astype(np.int64)


def _as_read(rows: pl.DataFrame) -> list[str]:
    """Return the texts as the model reads them, each after its prompt."""
    return rows.select(pl.col("prompt") + pl.col("text")).to_series().to_list()


def _write_store(folder: Path, unique: pl.DataFrame, hashes: np.ndarray, tokenize: Tokenize) -> None:
    content = _contents(unique)
    encoded = unique["text"].cast(pl.Binary)
    characters = np.frombuffer(b"".join(encoded.to_list()), np.uint8)
    sizes = unique["text"].str.len_bytes().to_numpy()
    with atomic_write(folder, first_stays=True) as aside:
        aside.mkdir(parents=True)
        tokens, lengths = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        starts = range(0, len(unique), _TEXTS_PER_BATCH)
        for start in tracked(starts, "tokenising"):
            flat, offsets = tokenize(_as_read(unique[start : start + _TEXTS_PER_BATCH]))
            tokens.append(flat)
            lengths.append(np.diff(offsets))
        all_lengths = np.concatenate(lengths)
        np.save(aside / "tokens.npy", np.concatenate(tokens))
        np.save(aside / "offsets.npy", _offsets(all_lengths))
        np.save(aside / "content.npy", content)
        np.save(aside / "hashes.npy", hashes)
        np.save(aside / "characters.npy", characters)
        np.save(aside / "character_offsets.npy", _offsets(sizes))
        facts = {
            "texts": len(unique),
            "tokens": int(all_lengths.sum()),
            "contents": int(content.max(initial=-1)) + 1,
        }
        (aside / "texts.json").write_text(json.dumps(facts))


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
