"""The language of both sides of a pair.

Chinese, Japanese and Korean are told by their scripts, in vectorised expressions over the measures; only what
is left (mostly Latin letters) is shown to py3langid, restricted to the recipe's candidates, and each distinct
text once. Texts with too few letters, or where the classifier is unsure, are `und`: undetermined, and stay.
"""

from functools import cache

import polars as pl
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from conan_embed.filtering.recipe import Language
from conan_embed.filtering.stage import Outcome, split

_SHOWN = 200  # characters; on the whole text the answer was the same for 99.5 % of 5,000 real texts


@cache
def _identifier(candidates: tuple[str, ...]) -> LanguageIdentifier:
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(candidates))
    return identifier


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
    rest = texts.filter(found.is_null())
    # Addresses and code say nothing about the language that a person wrote.
    shown = rest["text"].str.replace_all(r"https?://\S+|[^\p{L}\s'’-]+", " ").str.slice(0, _SHOWN)
    classify = _identifier(setting.candidates).classify
    guesses = [classify(text) for text in shown]
    codes = [code if probability >= setting.minimum_probability else "und" for code, probability in guesses]
    return _settle(found, pl.Series(codes, dtype=pl.String))


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
        texts = pairs.select(pl.col(side).alias("text"), *numbers).unique("text", maintain_order=True)
        texts = texts.select(
            pl.col("text").alias(side), language_of(texts, setting).alias(f"{side}_language")
        )
        pairs = pairs.join(texts, on=side, how="left", maintain_order="left")
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
