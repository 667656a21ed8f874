import json
import random

import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.filtering.decontamination import (
    Decontamination,
    EvaluationIndex,
    index_evaluation,
    read_evaluation,
)
from conan_embed.filtering.minhash import fingerprints
from conan_embed.filtering.recipe import Decontaminate, Duplicates, Normalise

HAN = [chr(c) for c in range(0x4E00, 0x4E00 + 3000)]


def text(seed: int, length: int = 60) -> str:
    return "".join(random.Random(seed).choices(HAN, k=length))


@pytest.fixture
def evaluation(tmp_path):
    (tmp_path / "retrieval").mkdir()
    pl.DataFrame({"text": [text(1), "你好"], "doc_id": [text(7), "2"]}).write_parquet(
        tmp_path / "retrieval" / "a.parquet"
    )
    pl.DataFrame({"query": [text(2)], "positive": [[text(3), text(4)]]}).write_parquet(tmp_path / "b.parquet")
    return tmp_path


def decontaminate(pairs, folder, **more):
    setting = Decontaminate(paths=(str(folder),), **more)
    index = EvaluationIndex(index_evaluation(read_evaluation(setting, Normalise()), Duplicates()))
    keys, texts = fingerprints(pairs, Duplicates())
    return Decontamination(index, setting, pairs, keys, texts)(pairs)


def test_equal_and_near_texts_of_either_side_go(evaluation, make_pairs):
    near = text(4)[:30] + "变" + text(4)[31:]
    far = text(4)[:20] + text(9, 40)
    pairs = make_pairs(
        [
            (text(1), "答案"),
            ("问题", f"{text(3)}。"),
            ("问题", near),
            ("问题", far),
            ("你好", "谢谢"),
            (text(7), "不是评测的列"),
        ]
    )
    outcome = decontaminate(pairs, evaluation)
    assert outcome.kept["id"].to_list() == [3, 4, 5]
    assert outcome.dropped["dropped_by"].to_list() == ["evaluation_text"] * 2 + ["near_evaluation_text"]
    assert outcome.dropped["value"].to_list()[:2] == [1.0, 1.0]
    assert outcome.dropped["value"][2] == pytest.approx(51 / 61)
    assert decontaminate(pairs, evaluation, near=False).kept["id"].to_list() == [2, 3, 4, 5]
    assert decontaminate(pairs, evaluation, min_characters=2).kept["id"].to_list() == [3, 5]


def test_evaluation_texts_of_other_formats(tmp_path, make_pairs):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text(1), "id": 7, "title": 3}) + "\n")
    (tmp_path / "b.csv").write_text(f"query,score\n{text(2)},1\n")
    pairs = make_pairs([(text(2), "答案"), (text(3), "答案")])
    assert decontaminate(pairs, tmp_path).dropped["query"].to_list() == [text(2)]


def test_a_folder_without_texts_is_named(tmp_path):
    pl.DataFrame({"label": [1]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="none of the columns query, positive"):
        read_evaluation(Decontaminate(paths=(str(tmp_path),)), Normalise())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such file"):
        read_evaluation(Decontaminate(paths=(str(tmp_path / "nowhere"),)), Normalise())
