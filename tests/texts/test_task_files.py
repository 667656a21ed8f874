"""What one process writes of the tasks, another maps as it was."""

from dataclasses import fields

import numpy as np
import pytest

from conan_embed.recipes.data import ClassificationData, Data, RetrievalData, StsData
from conan_embed.texts.loading import load_tasks
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.task_files import read_tasks, write_tasks
from tests.texts.test_loading import PROMPTS, Folder, tokenize


@pytest.fixture
def tasks(tmp_path):
    folder = Folder(tmp_path)
    pairs = [{"query": "a", "positive": ["1", "2"], "negative": "9"}, {"query": "b", "positive": "3"}]
    labelled = [{"text": text, "label": text[0]} for text in ("x1", "x2", "y1", "y2")]
    graded = [{"text_a": "1", "text_b": "2", "score": 0.5}]
    data = Data(
        retrieval=[
            RetrievalData(name="r", path=folder.write("r", pairs), weight=2.0),
            RetrievalData(name="s", path=folder.write("s", pairs[:1]), negative_source="given"),
        ],
        classification=[ClassificationData(name="c", path=folder.write("c", labelled))],
        sts=[StsData(name="g", path=folder.write("g", graded))],
    )
    return load_tasks(data, PROMPTS, tokenize, fingerprint="", cache=tmp_path / "cache")


def assert_same(one, other):
    for field in fields(one):
        first, second = getattr(one, field.name), getattr(other, field.name)
        if isinstance(first, Ragged):
            np.testing.assert_array_equal(first.values, second.values)
            first, second = first.offsets, second.offsets
        np.testing.assert_array_equal(first, second)
        assert type(first) is type(second)


def test_tasks_come_back_as_they_were(tasks, tmp_path):
    again = read_tasks(write_tasks(tasks, tmp_path / "cache"), tmp_path / "cache")
    assert again.store.folder == tasks.store.folder
    for one, other in zip([*tasks.retrieval, *tasks.sts], [*again.retrieval, *again.sts], strict=True):
        assert_same(one, other)


def test_the_folder_is_a_hash_of_what_is_in_it(tasks, tmp_path):
    folder = write_tasks(tasks, tmp_path / "cache")
    assert write_tasks(tasks, tmp_path / "cache") == folder
    tasks.retrieval[0].query_Q[0] += 1
    assert write_tasks(tasks, tmp_path / "cache") != folder
