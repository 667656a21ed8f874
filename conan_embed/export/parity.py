"""Does a copy embed as the original does? Compared on a few dozen texts, or on texts given.

Our texts are English and Chinese and both at once, from one character to all of them end to end (which most models
cut), and long ones share a padded batch with short ones: a lost mask, a wrong position, another pooling or a sliding
window that was dropped moves some embedding by far more than the floors allow. Texts that the tokenizer does not know
are left out: of a row of unknown tokens a model makes whatever it likes, and int8 something else.

In float32 every text counts. int8 moves all embeddings a little, so a low percentile counts there, and the ranking:
which texts are the nearest to each.

Shapes: N texts, D embedding width.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError

FLOORS: dict[str | None, float] = {None: 0.9999, "int8": 0.97}
"""Lowest cosine allowed between a text's embedding and its copy's: of all texts, in int8 of 95 % of them."""

FAR_IN_INT8 = 0.98
"""A text with a lower cosine makes int8 keep some of its matrices in float32 (`graph.write_int8`)."""

RANKING_FLOOR = 0.8
"""Least share of each text's nearest texts that int8 must find too."""

_PERCENTILE = 5
_NEAREST = 5
_FEWEST = 8  # texts that a judgement needs
_BATCH = 8

_SENTENCES = (
    "好",
    "Yes.",
    "今天下午有雨。",
    "Where is the station?",
    "这本书我已经读过两遍了。",
    "The kettle is boiling over.",
    "请问最近的地铁站怎么走？",
    "How long does a passport renewal take?",
    "如何给一位从未谋面的客户写第一封邮件？",
    "She repaired the old radio with a spoon and some patience.",
    "他把钥匙忘在办公室里，只好在楼下等了一个小时。",
    "Interest on the loan is due on the first working day of each month.",
    "苹果的价格比上个月涨了百分之十二，橙子却便宜了。",
    "A function that calls itself needs a case in which it does not.",
    "北风吹了一整夜，清晨的湖面结了一层薄冰，几只野鸭站在上面。",
    "The museum is closed on Mondays, except when a Monday is a public holiday.",
    "用 pandas 读取 CSV 文件时，如果列里混有数字和文字，应当先指定 dtype。",
    "Our train to 上海 was late by 47 minutes, so we missed the last bus home.",
    "合同第七条规定，任何一方提前终止协议，须在三十日之前以书面形式通知对方。",
    "Whales breathe air, feed their young with milk and yet spend their whole life in the sea.",
    "这种药饭后服用，每日三次，每次一片；如果出现头晕，请立即停药并咨询医生。",
    "To change the tyre, loosen the nuts before you lift the car, and tighten them crosswise at the end.",
    "二〇一九年，镇上最后一家电影院关了门，后来那栋房子先后做过超市、舞蹈教室和仓库，现在又空着。",
    "The committee read all forty proposals in one afternoon and, to nobody's surprise, could remember only the last.",
    "红豆提前泡一夜，第二天加水煮开，转小火慢慢炖到豆子裂开，最后放糖；急着放糖，豆子就不容易煮软了。",
    "If two threads each hold the lock that the other one is waiting for, neither will ever go on; "
    "taking all locks in the same order, everywhere, is the simplest way out.",
    "他年轻的时候在船上做过厨师，去过许多港口，说得出每个地方的鱼怎么做才好吃，可是退休以后，"
    "他最常做的却是一碗什么也不放的白粥。",
    "Rivers carry sand and gravel down from the mountains; where the slope ends the water slows, drops what it "
    "can no longer carry, and builds a plain of its own, which it then has to cross in wide, restless bends.",
    "1+1=2",
    "？！",
    "https://example.org/a/b?c=d#e",
    "ERROR 404: no such page",
    "人工智能 (AI) 与机器学习 (ML) 有什么区别？",
    "zebra zebra zebra zebra zebra",
    "  spaces   before, between and after  ",
)


@dataclass(frozen=True)
class Parity:
    """How near a copy is to the original.

    Attributes:
        texts: how many were compared.
        cosine_min, cosine_low, cosine_mean: the lowest cosine between a text's two embeddings, the 5th percentile, and
            the mean.
        nearest_kept: the mean share of a text's nearest 5 texts that the copy finds too.
        floor: what `cosine_min` (in int8 `cosine_low`) had to reach.
    """

    texts: int
    cosine_min: float
    cosine_low: float
    cosine_mean: float
    nearest_kept: float
    floor: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def known_texts(model: EmbeddingModel, texts: Sequence[str] | None = None) -> list[str]:
    """Return the texts that the tokenizer knows, and one of all of them; all texts where it knows hardly any.

    Args:
        texts: instead of our own, which get the passage prompt.
    """
    prompt = model.prompts["passage"] if texts is None else ""
    texts = _SENTENCES if texts is None else texts
    tokens, offsets = model.tokenize([prompt + text for text in texts])
    unknown_T = tokens == (-1 if model.tokenizer.unk_token_id is None else model.tokenizer.unk_token_id)
    known = [
        text
        for text, (start, stop) in zip(texts, pairwise(offsets), strict=True)
        if not unknown_T[start:stop].any()
    ]
    chosen = known if len(known) >= _FEWEST else list(texts)
    return [prompt + text for text in (*chosen, " ".join(chosen))]


def embed(model: EmbeddingModel, texts: Sequence[str], width: int) -> np.ndarray:
    """Return the prefix of `width` numbers of `model`'s float32 embeddings, [N, D] with rows of length 1."""
    return model.encode(texts, widths=[width], precision="float32")[width]


def embed_with(run: Callable[[Sequence[str]], np.ndarray], texts: Sequence[str]) -> np.ndarray:
    """Return the embeddings that `run` (a batch of texts to [batch, D]) gives, batch by batch, [N, D]."""
    return np.concatenate([run(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)])


def compare(
    copy_ND: np.ndarray, original_ND: np.ndarray, texts: Sequence[str], quantize: str | None = None
) -> Parity:
    """Compare two arrays of unit rows.

    Raises:
        UserError: the copy embeds otherwise than the original (or gives no numbers).
    """
    assert copy_ND.shape == original_ND.shape, (copy_ND.shape, original_ND.shape)
    copy_ND, original_ND = copy_ND.astype(np.float64), original_ND.astype(np.float64)
    cosine_N = (copy_ND * original_ND).sum(axis=1)
    parity = Parity(
        texts=len(cosine_N),
        cosine_min=float(cosine_N.min()),
        cosine_low=float(np.percentile(cosine_N, _PERCENTILE)),
        cosine_mean=float(cosine_N.mean()),
        nearest_kept=_nearest_kept(copy_ND, original_ND),
        floor=FLOORS[quantize],
    )
    judged = parity.cosine_min if quantize is None else parity.cosine_low
    if not judged >= parity.floor:
        raise UserError(
            f"export: the copy does not embed as the model does: cosine {judged:.4f}, expected {parity.floor} or more "
            f"(lowest for {texts[int(cosine_N.argmin())][:30]!r}); nothing was written."
        )
    if quantize and parity.nearest_kept < RANKING_FLOOR:
        raise UserError(
            f"export: the copy ranks texts otherwise than the model does: it finds {parity.nearest_kept:.0%} of each "
            f"text's nearest, expected {RANKING_FLOOR:.0%} or more; nothing was written."
        )
    return parity


def _nearest_kept(copy_ND: np.ndarray, original_ND: np.ndarray) -> float:
    """Return the mean share of each text's nearest texts in `original_ND` that are also nearest in `copy_ND`."""
    nearest = min(_NEAREST, len(copy_ND) - 1)
    if nearest < 1:
        return 1.0
    shares = []
    for row, (copied_N, score_N) in enumerate(
        zip(copy_ND @ copy_ND.T, original_ND @ original_ND.T, strict=True)
    ):
        copied_N[row] = score_N[row] = -np.inf
        shares.append(
            len(np.intersect1d(copied_N.argsort()[-nearest:], score_N.argsort()[-nearest:])) / nearest
        )
    return float(np.mean(shares))
