"""The language of both sides of a pair.

Chinese, Japanese and Korean are told by their scripts, in vectorised expressions over the measures; only what
is left (mostly Latin letters) is shown to the model of py3langid, restricted to the recipe's candidates, and each
distinct text once. Texts with too few letters, or where the model is unsure, are `und`: undetermined, and stay.

py3langid walks a text byte by byte through an automaton in Python; here all texts walk at once, a byte a step, which
takes an eighth of the time and gives the same answers (tested).

Letters of the shapes: N texts, V visits of a state, F features, L languages.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl
from py3langid.langid import MODEL_FILE, LanguageIdentifier
from scipy.sparse import csr_array

from conan_embed.filtering.measures import chunks
from conan_embed.filtering.recipe import Language
from conan_embed.filtering.stage import Outcome, split

_SHOWN = 200  # characters; on the whole text the answer was the same for 99.5 % of 5,000 real texts
_BATCH_BYTES = 1 << 20  # of texts that walk together


@dataclass(frozen=True)
class LanguageModel:
    """A naive Bayes model over the byte n-grams that an automaton finds, as py3langid trains it.

    Attributes:
        next_state: uint32 [rows, 256], the state after a byte; several states share a row.
        row_of_state: the row of each state.
        feature_of_state: the n-gram that ends in each state, or -1.
        weight_FL: float32, log probability of each n-gram in each language.
        prior_L: float32.
        languages: their codes, in order.
    """

    next_state: np.ndarray
    row_of_state: np.ndarray
    feature_of_state: np.ndarray
    weight_FL: np.ndarray
    prior_L: np.ndarray
    languages: tuple[str, ...]

    @classmethod
    @cache
    def load(cls, candidates: tuple[str, ...]) -> "LanguageModel":
        """Load py3langid's model, restricted to some languages; once a process."""
        model = LanguageIdentifier.from_model_file(MODEL_FILE)
        model.set_languages(list(candidates))
        return cls(
            np.asarray(model.tk_nextmove).reshape(-1, 256),
            np.asarray(model.tk_row),
            np.asarray(model.tk_output),
            model.nb_ptc.astype(np.float32),
            model.nb_pc,
            tuple(model.nb_classes),
        )

    def classify(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the place in `languages` (int64 [N]) and the probability (float32 [N]) of each text's language."""
        # As the model was trained: capitals say nothing about a language.
        lower = (text.lower() if text.isupper() else text for text in texts)
        encoded = [unicodedata.normalize("NFC", text).encode() for text in lower]
        num_bytes = np.fromiter(map(len, encoded), np.int64, len(encoded))
        order = np.argsort(-num_bytes, kind="stable")  # those that still walk are always the first ones
        best, probability = np.empty(len(texts), np.int64), np.empty(len(texts), np.float32)
        for part in chunks(num_bytes[order], _BATCH_BYTES):
            rows = order[part]
            score_NL = self._scores([encoded[row] for row in rows], num_bytes[rows])
            # Divided by the root of the length, the scores of long texts are no surer than they should be.
            score_NL /= np.sqrt(np.maximum(num_bytes[rows], 1))[:, None].astype(np.float32)
            odds_NL = np.exp(score_NL - score_NL.max(1, keepdims=True))
            best[rows] = odds_NL.argmax(1)
            probability[rows] = odds_NL.max(1) / odds_NL.sum(1)
        return best, probability

    def _scores(self, encoded: list[bytes], num_bytes: np.ndarray) -> np.ndarray:
        """Return the log posterior of texts (bytes, the longest first), 0 for one without features: float32 [N, L]."""
        letters = np.frombuffer(b"".join(encoded), np.uint8)
        place = np.cumsum(num_bytes) - num_bytes
        state = np.zeros(len(encoded), np.int64)
        num_features = len(self.weight_FL)
        visits = []
        for step in range(num_bytes[0]):
            walking = int(np.searchsorted(-num_bytes, -step))
            state = self.next_state[self.row_of_state[state[:walking]], letters[place[:walking] + step]]
            feature = self.feature_of_state[state]
            text = np.flatnonzero(feature >= 0)
            visits.append(text * num_features + feature[text])
        visit_V, count_V = np.unique(np.concatenate([np.empty(0, np.int64), *visits]), return_counts=True)
        text_V, feature_V = np.divmod(visit_V, num_features)
        starts = np.searchsorted(text_V, np.arange(len(encoded) + 1))
        damped_V = np.log1p(count_V.astype(np.float32))
        seen = csr_array((damped_V, feature_V, starts), shape=(len(encoded), num_features))
        return (seen @ self.weight_FL + self.prior_L) * (np.diff(starts) > 0)[:, None]


def language_of(texts: pl.DataFrame, setting: Language) -> pl.Series:
    """Return the language code of each text (`zh`, `ja`, `ko`, a candidate, or `und`).

    Args:
        texts: columns `text`, and `han`, `kana`, `hangul`, `letters`, `tokens` of `measures.measure`.
    """
    kana, hangul = pl.col("kana"), pl.col("hangul")
    # A Han character says about as much as four Latin letters, so a Chinese text full of product names is
    # Chinese.
    ideographs = 4 * pl.col("han") + kana + hangul
    by_script = (
        pl.when((pl.col("han") + kana + hangul + pl.col("letters")) == 0)
        .then(pl.lit("und"))
        .when((hangul > 2 * pl.col("han")) & (2 * hangul >= pl.col("letters")))
        .then(pl.lit("ko"))
        .when((kana >= 3) & (2 * kana >= pl.col("han")) & (2 * kana + 3 * pl.col("han") >= pl.col("letters")))
        .then(pl.lit("ja"))
        .when(ideographs >= pl.col("letters"))
        .then(pl.lit("zh"))
        .when(pl.col("letters") < setting.minimum_letters)
        .then(pl.lit("und"))
    )
    found = texts.select(by_script.alias("language"))["language"]
    found = _settle(found, _english(texts.filter(found.is_null())).replace_strict({True: "en", False: None}))
    return _settle(found, _by_model(texts.filter(found.is_null())["text"], setting))


def _by_model(texts: pl.Series, setting: Language) -> pl.Series:
    """Return the code of the language that the model is sure of, or `und`, of each text."""
    distinct = texts.unique(maintain_order=True)
    # Addresses and code say nothing about the language that a person wrote.
    shown = distinct.str.replace_all(r"https?://\S+|[^\p{L}\s'’-]+", " ").str.slice(0, _SHOWN)
    model = LanguageModel.load(setting.candidates)
    best, probability = model.classify(shown.to_list())
    sure = pl.Series(probability >= setting.minimum_probability)
    codes = pl.Series(model.languages, dtype=pl.String).gather(best)
    codes = codes.zip_with(sure, pl.Series(["und"]))
    return texts.replace_strict(distinct, codes, return_dtype=pl.String)


def _english(texts: pl.DataFrame) -> pl.Series:
    """Tell the texts that are plainly English, one word in fifteen being "the" or "and": boolean.

    No other language has both; it spares the classifier, which costs twenty times as much, most of its work.
    """
    words = texts["text"].str.count_matches(r"(?-u:\b)(?:[Tt]he|and)(?-u:\b)")
    return (words >= 2) & (15 * words >= texts["tokens"])


def _settle(found: pl.Series, answers: pl.Series) -> pl.Series:
    """Put the answers in the places of `found` that are null."""
    return found.scatter(found.is_null().arg_true(), answers)


def with_languages(pairs: pl.DataFrame, setting: Language) -> pl.DataFrame:
    """Add `query_language` and `positive_language`; the pairs must carry their measures."""
    for side in ("query", "positive"):
        numbers = [
            pl.col(f"{side}_{name}").alias(name) for name in ("han", "kana", "hangul", "letters", "tokens")
        ]
        texts = pairs.select(pl.col(side).alias("text"), *numbers)
        pairs = pairs.with_columns(language_of(texts, setting).alias(f"{side}_language"))
    return pairs


def check_language(pairs: pl.DataFrame, setting: Language) -> Outcome:
    """Drop pairs with a side in a language that is not kept, or, where asked for, with sides in two
    languages.

    Reasons: `query_language`, `positive_language`, `same_language`; their value is null.
    """
    kept = [*setting.keep, "und"]
    reasons = {side: ~pl.col(side).is_in(kept) for side in ("query_language", "positive_language")}
    if setting.same:
        sides = pl.col("query_language"), pl.col("positive_language")
        reasons["same_language"] = (sides[0] != sides[1]) & (sides[0] != "und") & (sides[1] != "und")
    return split(pairs, "language", {name: (flag, pl.lit(None)) for name, flag in reasons.items()})
