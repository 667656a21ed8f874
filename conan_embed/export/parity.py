"""Does a copy embed as the original does? Asked of a few dozen texts, answered with a number.

The texts are English and Chinese and both at once, from one character to all of them end to end (which most models
cut), and long ones share a padded batch with short ones: a lost mask, a wrong position, another pooling or a sliding
window that was dropped moves some embedding by far more than the floors allow.

Shapes: N texts, D embedding width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError

FLOORS: dict[str | None, float] = {None: 0.9999, "int8": 0.98}
"""Lowest cosine allowed between a text's embedding and its copy's, by quantisation."""

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

TEXTS: tuple[str, ...] = (*_SENTENCES, " ".join(_SENTENCES))


def embed(model: EmbeddingModel, width: int) -> np.ndarray:
    """Return the prefix of `width` numbers of `model`'s float32 embeddings of TEXTS, [N, D] with rows of length 1."""
    return model.encode(_prompted(model.prompts), widths=[width], precision="float32")[width]


def embed_with(run: Callable[[Sequence[str]], np.ndarray], prompts: dict[str, str]) -> np.ndarray:
    """Return what `run` (a batch of texts to [batch, D]) makes of TEXTS, batch by batch, [N, D]."""
    texts = _prompted(prompts)
    return np.concatenate([run(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)])


def judged(found_ND: np.ndarray, expected_ND: np.ndarray, quantize: str | None) -> dict[str, Any]:
    """Compare two arrays of unit rows, row by row.

    Returns:
        `texts`, `cosine_min`, `cosine_mean` and `floor`.

    Raises:
        UserError: some cosine is below the floor (or is not a number).
    """
    assert found_ND.shape == expected_ND.shape, (found_ND.shape, expected_ND.shape)
    cosine_N = (found_ND.astype(np.float64) * expected_ND.astype(np.float64)).sum(axis=1)
    floor = FLOORS[quantize]
    worst = int(cosine_N.argmin())
    if not cosine_N[worst] >= floor:
        raise UserError(
            f"export: the copy does not embed as the model does: cosine {cosine_N[worst]:.4f} for "
            f"{TEXTS[worst][:30]!r}, expected {floor} or more; nothing was written."
        )
    return {
        "texts": len(cosine_N),
        "cosine_min": float(cosine_N.min()),
        "cosine_mean": float(cosine_N.mean()),
        "floor": floor,
    }


def _prompted(prompts: dict[str, str]) -> list[str]:
    return [prompts["passage"] + text for text in TEXTS]
