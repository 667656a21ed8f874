"""Quality: a small classifier, trained on texts that you call good and bad, judges each positive.

The pipeline that the paper follows ends in classifiers of quality, trained on texts that people judged. No such model
for Chinese and English comes with a package, and what is good depends on the use, so this one is trained on your own
examples: a logistic regression over hashed character n-grams, in seconds. It is off until the recipe names examples of
both kinds, and refuses to run where it cannot tell them apart on texts that it was not trained on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from scipy.sparse import csr_array, vstack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import normalize

from conan_embed.errors import UserError
from conan_embed.filtering.grams import chunks, grams
from conan_embed.filtering.normalise import normalise_texts
from conan_embed.filtering.readers import read_texts
from conan_embed.filtering.recipe import Normalise, Quality
from conan_embed.filtering.stage import Outcome, split

GRAMS = (2, 4)  # characters: two tell Chinese words, four English ones
NUM_FEATURES = 1 << 18
MAX_EXAMPLES = 20_000  # of each kind
MIN_AUC = 0.65  # on held-out examples; 0.5 is guessing
_READ_CHARACTERS = 2_000  # of each text
_CHUNK_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class QualityModel:
    """A linear model: probability of being good = sigmoid(features @ weight_F + bias).

    Attributes:
        weight_F: float32 [NUM_FEATURES].
        auc: area under the ROC curve on held-out examples.
    """

    weight_F: np.ndarray
    bias: float
    auc: float

    def probability(self, texts: pl.Series) -> np.ndarray:
        """Return the probability that each text is good: float64 [N]."""
        logits = [features_NF @ self.weight_F for features_NF in _features(texts)]
        return 1 / (1 + np.exp(-(np.concatenate([np.zeros(0), *logits]) + self.bias)))

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, weight=self.weight_F, bias=self.bias, auc=self.auc)

    @classmethod
    def load(cls, path: Path) -> "QualityModel":
        with np.load(path) as arrays:
            return cls(arrays["weight"], float(arrays["bias"]), float(arrays["auc"]))


def _features(texts: pl.Series) -> Iterator[csr_array]:
    """Yield the features of texts in parts, float32 [N, F]: logarithms of counts, rows of length 1."""
    texts = texts.str.slice(0, _READ_CHARACTERS)
    for rows in chunks(texts.str.len_chars().to_numpy(), _CHUNK_CHARACTERS):
        counts = sum(_count_grams(texts[rows], n) for n in GRAMS)
        counts.data = np.log1p(counts.data)
        yield normalize(counts)


def _count_grams(texts: pl.Series, n: int) -> csr_array:
    hashes, offsets = grams(texts, n)
    feature = (hashes >> np.uint64(64 - NUM_FEATURES.bit_length() + 1)).astype(np.int32)
    ones = np.ones(len(feature), np.float32)
    counts = csr_array((ones, feature, offsets), shape=(len(texts), NUM_FEATURES))
    counts.sum_duplicates()
    return counts


def train_quality(setting: Quality, normal: Normalise) -> QualityModel:
    """Train the model on the recipe's examples; one in five is held out to judge it.

    Raises:
        UserError: a path has no texts, or the model cannot tell good from bad.
    """
    examples = [_read_examples(paths, setting, normal) for paths in (setting.good, setting.bad)]
    features_NF = vstack([part for texts in examples for part in _features(texts)], format="csr")
    is_good = np.repeat([True, False], [len(texts) for texts in examples])
    held_out = np.random.default_rng(0).random(len(is_good)) < 0.2
    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=200)
    model.fit(features_NF[~held_out], is_good[~held_out])
    auc = float(roc_auc_score(is_good[held_out], model.decision_function(features_NF[held_out])))
    if not auc >= MIN_AUC:
        raise UserError(
            f"quality: the model cannot tell the good examples from the bad ones (area under the ROC curve {auc:.2f} "
            f"on held-out texts, expected at least {MIN_AUC}); give more or clearer examples."
        )
    return QualityModel(model.coef_[0].astype(np.float32), float(model.intercept_[0]), auc)


def _read_examples(paths: tuple[str, ...], setting: Quality, normal: Normalise) -> pl.Series:
    texts = pl.concat([read_texts(path, setting.columns) for path in paths])
    texts = texts.drop_nulls().unique(maintain_order=True)
    if normal.enabled:
        texts = normalise_texts(texts, normal)
    texts = texts.filter(texts.str.len_chars() > 0)
    if len(texts) < 50:
        raise UserError(
            f"quality: found {len(texts)} different texts in {', '.join(paths)}, expected at least 50."
        )
    return texts.sample(min(len(texts), MAX_EXAMPLES), seed=0, shuffle=True)


@dataclass(frozen=True)
class QualityFilter:
    """The stage: drop pairs whose positive is probably bad; the value is the probability of being good."""

    model: QualityModel
    setting: Quality
    name: str = "quality"

    def __call__(self, pairs: pl.DataFrame) -> Outcome:
        scored = pairs.with_columns(_quality=self.model.probability(pairs["positive"]))
        is_low = pl.col("_quality") < self.setting.min_probability
        outcome = split(scored, self.name, {"low_quality": (is_low, pl.col("_quality"))})
        return replace(outcome, kept=outcome.kept.drop("_quality"))
