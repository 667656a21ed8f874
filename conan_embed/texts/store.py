"""A text is an integer.

Every text of a run is de-duplicated, tokenised once and kept in memory-mapped arrays. From then on examples, rankings
and negatives are arrays of text ids: nothing is tokenised in the training loop, a text that occurs twice in a step is
encoded once, and a false negative is found by comparing integers.

One text under two prompts ("query: x", "passage: x") is two text ids, since its tokens differ, with one *content* id.
Texts that the model reads alike have one content, too: those that differ in case or blanks only, or beyond the length
at which texts are cut, wherever the tokenizer makes the same tokens of them (`contents`).

    folder of a store      tokens.npy   int32 [all tokens]     offsets.npy       int64 [texts + 1]
                           content.npy  int64 [texts]          characters.npy    uint8, the texts in UTF-8
                           character_offsets.npy int64 [texts + 1]
                           hashes.npy   uint64 [texts], xxh3 of each text without its prompt
                           texts.json   how much there is, and how much of it is cut off

The folder's name is a hash of everything that went in (texts, prompts, tokenizer, max length), so a second run on the
same data maps the files of the first, and several machines may write one store to a shared disk at the same time.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import xxhash

from conan_embed.console import tracked
from conan_embed.files import atomic_write, read_json, write_json
from conan_embed.texts.contents import contents_of, probes_of, unread_texts

Tokenize = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
"""Texts to int32 tokens end to end and int64 offsets [N + 1] (see `EmbeddingModel.tokenize`)."""

CountTokens = Callable[[Sequence[str]], np.ndarray]
"""Texts to int64 [N], how many tokens each has before it is cut (see `EmbeddingModel.count_tokens`)."""

_ARRAYS = ("tokens", "offsets", "content", "hashes", "characters", "character_offsets")
_TEXTS_PER_BATCH = 16_384
_VERSION = 4  # of what stands in a folder: contents by tokens


@dataclass(frozen=True)
class StoreInfo:
    """What texts.json says of a store.

    Attributes:
        texts, tokens, contents: how many it holds.
        max_length: tokens of the longest text.
        cut_texts, cut_tokens: texts that were cut at `max_length`, and tokens that were cut off; None if not counted.
    """

    texts: int
    tokens: int
    contents: int
    max_length: int
    cut_texts: int | None
    cut_tokens: int | None


class Texts:
    """Tokenised texts, by text id 0 .. N-1.

    Attributes:
        tokens: int32, all tokens end to end; those of text t are tokens[offsets[t]:offsets[t + 1]].
        offsets: int64 [N + 1].
        content: int64 [N], the same for texts that are equal, or equal tokens, but for their prompt.
        unread: the texts of which the tokenizer leaves nothing, as far as they were looked for, and
        unread_ids: int64, their ids.
    """

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray, content: np.ndarray) -> None:
        self.tokens, self.offsets, self.content = tokens, offsets, content
        self.unread: list[str] = []
        self.unread_ids = np.empty(0, np.int64)

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

    def info(self) -> StoreInfo:
        return StoreInfo(**read_json(self.folder / "texts.json"))

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
        """Take a column of texts that will be read with `prompt` before them; return its index in `build`'s result."""
        frame = pl.DataFrame({"text": texts.cast(pl.String)}).with_columns(prompt=pl.lit(prompt))
        self._columns.append(frame)
        return len(self._columns) - 1

    def build(
        self,
        cache: Path,
        tokenize: Tokenize,
        *,
        fingerprint: str,
        count_tokens: CountTokens | None = None,
    ) -> tuple[TextStore, list[np.ndarray]]:
        """Tokenise what is not in the cache yet.

        Args:
            cache: folder of all stores.
            tokenize: see `Tokenize`.
            fingerprint: whatever else changes the tokens: the tokenizer's own state and the max length.
            count_tokens: tells how much of the texts is cut off; without it the store does not say.

        Returns:
            the store, and one int64 array of text ids per `add`, in its order.
        """
        unique, ids = self._numbered()
        hashes = np.fromiter(
            map(xxhash.xxh3_64_intdigest, unique["text"].cast(pl.Binary)), np.uint64, len(unique)
        )
        settings = [_VERSION, fingerprint, unique["prompt"].rle().to_list(), count_tokens is None]
        key = xxhash.xxh3_128(json.dumps(settings).encode())
        key.update(hashes.tobytes())
        folder = cache / "texts" / key.hexdigest()
        if not (folder / "texts.json").exists():
            _write_store(folder, unique, hashes, tokenize, count_tokens)
        return TextStore(folder), ids

    def hold(self, tokenize: Tokenize) -> tuple[Texts, list[np.ndarray]]:
        """Tokenise everything now, for texts that are needed once; the same result as `build`, without a folder."""
        unique, ids = self._numbered()
        probes = probes_of(unique["prompt"])
        tokens, offsets = tokenize([*_as_read(unique), *probes.texts])
        frames = probes.frames(tokens, offsets[len(unique) :])
        offsets = offsets[: len(unique) + 1]
        tokens = tokens[: offsets[-1]]
        texts = Texts(tokens, offsets, contents_of(unique, frames, tokens, offsets))
        texts.unread_ids = unread_texts(unique["prompt"], frames, tokens, offsets)
        texts.unread = unique["text"][texts.unread_ids].to_list()
        return texts, ids

    def unread(self, store: TextStore, tokenize: Tokenize) -> pl.Series:
        """Return the texts of the store that `build` made of which the tokenizer leaves nothing, each once."""
        unique, _ = self._numbered()
        probes = probes_of(unique["prompt"])
        frames = probes.frames(*tokenize(probes.texts))
        ids = unread_texts(unique["prompt"], frames, store.tokens, store.offsets)
        return unique["text"][ids].unique(maintain_order=True)

    def _numbered(self) -> tuple[pl.DataFrame, list[np.ndarray]]:
        """Return the different texts with their prompts, in order of text ids, and every column as text ids."""
        rows = pl.concat(self._columns) if self._columns else pl.DataFrame({"text": [], "prompt": []})
        unique = rows.unique(maintain_order=True).with_row_index("id")
        ids = rows.join(unique, on=["text", "prompt"], how="left", maintain_order="left")["id"].to_numpy()
        ends = np.cumsum([len(column) for column in self._columns])
        return unique, np.split(ids.astype(np.int64), ends[:-1]) if len(ends) else []


def _as_read(rows: pl.DataFrame) -> list[str]:
    """Return the texts as the model reads them, each after its prompt."""
    return rows.select(pl.col("prompt") + pl.col("text")).to_series().to_list()


def _write_store(
    folder: Path,
    unique: pl.DataFrame,
    hashes: np.ndarray,
    tokenize: Tokenize,
    count_tokens: CountTokens | None,
) -> None:
    tokens, offsets = _tokenize_in_batches(unique, tokenize)
    probes = probes_of(unique["prompt"])
    content = contents_of(unique, probes.frames(*tokenize(probes.texts)), tokens, offsets)
    arrays = {
        "tokens": tokens,
        "offsets": offsets,
        "content": content,
        "hashes": hashes,
        "characters": np.frombuffer(b"".join(unique["text"].cast(pl.Binary).to_list()), np.uint8),
        "character_offsets": _offsets(unique["text"].str.len_bytes().to_numpy()),
    }
    info = _info(unique, offsets, content, count_tokens)
    with atomic_write(folder, first_stays=True) as aside:
        aside.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(aside / f"{name}.npy", array)
        write_json(aside / "texts.json", asdict(info))


def _tokenize_in_batches(unique: pl.DataFrame, tokenize: Tokenize) -> tuple[np.ndarray, np.ndarray]:
    tokens, lengths = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    starts = range(0, len(unique), _TEXTS_PER_BATCH)
    for start in tracked(starts, "tokenising"):
        flat, offsets = tokenize(_as_read(unique[start : start + _TEXTS_PER_BATCH]))
        tokens.append(flat)
        lengths.append(np.diff(offsets))
    return np.concatenate(tokens), _offsets(np.concatenate(lengths))


def _info(
    unique: pl.DataFrame, offsets: np.ndarray, content: np.ndarray, count_tokens: CountTokens | None
) -> StoreInfo:
    lengths = np.diff(offsets)
    longest = int(lengths.max(initial=0))
    cut = None
    if count_tokens is not None:
        # A text that was cut is as long as texts may be: only those of that length need to be counted in full.
        rows = np.flatnonzero(lengths == longest)
        cut = count_tokens(_as_read(unique[rows])) - longest
    contents = int(content.max(initial=-1)) + 1
    cut_texts, cut_tokens = (None, None) if cut is None else (int((cut > 0).sum()), int(cut.clip(0).sum()))
    return StoreInfo(len(unique), int(lengths.sum()), contents, longest, cut_texts, cut_tokens)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
