"""Small data sets over few words, to plan steps of."""

import functools
import json
import tempfile
import zlib
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import strategies as st

from conan_embed.negatives.rankings import NONE
from conan_embed.negatives.table import NegativeTable
from conan_embed.recipes.data import Data
from conan_embed.recipes.sections import Step
from conan_embed.texts.loading import load_tasks
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.store import TextStoreBuilder
from conan_embed.texts.tasks import RetrievalDataset, StsDataset, Tasks

CACHE = tempfile.TemporaryDirectory()  # removed when the tests end


def tokenize(texts):
    """One token a text, other texts other tokens."""
    tokens = np.array([zlib.crc32(text.encode()) & 0x7FFFFFFF for text in texts], np.int32)
    return tokens, np.arange(len(texts) + 1)


@functools.cache
def random_tasks(seed, sizes=(7, 5, 6), pairs=(5, 4), words=14, weights=(None, None, None)):
    """Data sets over few words, the last retrieval set from classes; and a table of hard negatives."""
    generator = np.random.default_rng(seed)
    word = lambda count: [f"w{i}" for i in generator.integers(words, size=count)]  # noqa: E731
    builder = TextStoreBuilder()
    contents = []
    for size in sizes[:-1]:
        queries = word(size)
        answers = {
            q: list(dict.fromkeys(["answer " + q, *word(generator.integers(4))])) for q in set(queries)
        }
        answers = {q: [text for text in found if text != q] for q, found in answers.items()}
        contents.append((queries, [answers[q] for q in queries]))
        builder.add(pl.Series(queries), "q")
        builder.add(pl.Series([text for q in queries for text in answers[q]]), "p")
    classes = list(dict.fromkeys(word(4 * sizes[-1])))[: sizes[-1]]
    builder.add(pl.Series(classes), "s")
    for size in pairs:
        builder.add(pl.Series(word(size)), "s")
        builder.add(pl.Series(word(size)), "s")
    pool = builder.add(pl.Series([f"w{i}" for i in range(words)]), "p")
    store, columns = builder.build(
        Path(tempfile.gettempdir()) / "conan-embed-test-plan", tokenize, fingerprint=""
    )
    found = iter(columns)
    sets = []
    for number, (queries, answers) in enumerate(contents):
        query_Q, positive = next(found), next(found)
        lists = Ragged.of_lengths(positive, np.array([len(row) for row in answers]))
        sets.append(retrieval_set(f"set{number}", query_Q, np.arange(len(queries)), lists, weights[number]))
    members = next(found)
    class_of = np.arange(len(members)) % 2
    order = np.argsort(class_of, kind="stable")
    lists = Ragged.of_lengths(members[order], np.bincount(class_of))
    sets.append(retrieval_set("classes", members, class_of, lists, weights[-1]))
    sts = [
        StsDataset(f"sts{i}", next(found), next(found), generator.integers(3, size=size).astype(float), None)
        for i, size in enumerate(pairs)
    ]
    tasks = Tasks(store, sets, sts)
    return tasks, random_table(tasks, columns[pool], generator)


def retrieval_set(name, query_Q, list_Q, lists, weight=None):
    empty = Ragged.empty(len(query_Q))
    return RetrievalDataset(
        name, query_Q, list_Q, lists, empty, np.unique(lists.values), "mined", None, weight
    )


def random_table(tasks, passages, generator, n=3):
    """Hard negatives that are no answers of their query, as mining gives them; some rows are short."""
    rows = []
    for data in tasks.retrieval:
        for query, number in zip(data.query_Q, data.list_Q, strict=True):
            answers = {tasks.store.content[i] for i in (*data.positives[number], query)}
            allowed = [i for i in generator.permutation(passages) if tasks.store.content[i] not in answers]
            kept = allowed[: generator.integers(2 * n + 1)]
            rows.append([*kept, *[NONE] * (2 * n - len(kept))])
    return NegativeTable(np.array(rows, np.int32), n)


steps = st.builds(
    Step,
    queries=st.integers(1, 9),
    positives=st.integers(1, 3),
    num_negatives=st.sampled_from([0, 3]),
    in_batch=st.sampled_from(["step", "dataset", "step_hard", "dataset_hard", "none"]),
    sts_pairs=st.integers(1, 7),
    mixing=st.sampled_from(["joint", "sequential"]),
    one_dataset=st.booleans(),
)


def ids(plan, places):
    """Places among a step's unique texts as text ids."""
    return plan.text_ids[places.numpy()]


def tasks_of(folder, *files, prompts=("", "", "")):
    """Tasks read from rows of (query, positives), a list of rows for each data set."""
    sets = []
    for number, rows in enumerate(files):
        path = folder / f"{number}.jsonl"
        lines = [json.dumps({"query": query, "positive": positives}) for query, positives in rows]
        path.write_text("\n".join(lines) + "\n")
        sets.append({"name": f"set{number}", "path": str(path)})
    prompts = dict(zip(("query", "passage", "sts"), prompts, strict=True))
    return load_tasks(Data(retrieval=sets), prompts, tokenize, fingerprint="", cache=folder / "cache")
