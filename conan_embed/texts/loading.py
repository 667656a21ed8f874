"""Files to tasks, in three phases: read the files, build the store of texts, look ids up."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from conan_embed.console import console
from conan_embed.errors import UserError
from conan_embed.recipes.data import Data
from conan_embed.texts.readers import OnBadRow, find_text
from conan_embed.texts.shared_positives import with_answers_elsewhere, without_false_negatives
from conan_embed.texts.store import CountTokens, StoreInfo, TextStoreBuilder, Tokenize
from conan_embed.texts.tables import Table, read_classification_table, read_retrieval_table, read_sts_table
from conan_embed.texts.tasks import RetrievalDataset, StsDataset, Tasks


def load_tasks(
    data: Data,
    prompts: dict[str, str],
    tokenize: Tokenize,
    *,
    fingerprint: str,
    cache: Path,
    count_tokens: CountTokens | None = None,
    dataset_prompts: Mapping[str, Mapping[str, str]] | None = None,
    with_scores: bool = False,
) -> Tasks:
    """Read, check and tokenise every file of a recipe.

    Args:
        data: the recipe's section.
        prompts: of the model, by role (query, passage, sts).
        tokenize, fingerprint, cache, count_tokens: see `TextStoreBuilder.build`; with the last it is printed how much
            of the texts is cut off.
        dataset_prompts: of data sets that have their own, by name and role.
        with_scores: read a teacher's scores that stand beside the texts of retrieval sets, too.

    Raises:
        UserError: a file that cannot be read or holds a bad row (see readers.py), a text of which the tokenizer leaves
            nothing, or a task left empty.
    """
    tables: list[Table] = [
        *(read_retrieval_table(part, data.on_bad_row, with_scores=with_scores) for part in data.retrieval),
        *(read_classification_table(part, data.on_bad_row) for part in data.classification),
        *(read_sts_table(part, data.on_bad_row) for part in data.sts),
    ]
    builder = _builder_of(tables, prompts, dataset_prompts or {})
    store, ids = builder.build(cache, tokenize, fingerprint=fingerprint, count_tokens=count_tokens)
    unread = builder.unread(store, tokenize)
    if len(unread):
        _report_unread(tables, unread, data.on_bad_row)
        tables = [table.without(unread) for table in tables]
        builder = _builder_of(tables, prompts, dataset_prompts or {})
        store, ids = builder.build(cache, tokenize, fingerprint=fingerprint, count_tokens=count_tokens)
    _print_cut(store.info())
    columns = iter(ids)
    datasets = [table.dataset([next(columns) for _ in table.columns()], store) for table in tables]
    retrieval = [dataset for dataset in datasets if isinstance(dataset, RetrievalDataset)]
    retrieval = [
        without_false_negatives(dataset, store)
        for dataset in with_answers_elsewhere(retrieval, store.content)
    ]
    return Tasks(store, retrieval, [dataset for dataset in datasets if isinstance(dataset, StsDataset)])


def _builder_of(
    tables: Sequence[Table], prompts: Mapping[str, str], dataset_prompts: Mapping[str, Mapping[str, str]]
) -> TextStoreBuilder:
    builder = TextStoreBuilder()
    for table in tables:
        own = dataset_prompts.get(table.data.name, prompts)
        for texts, role in table.columns():
            builder.add(texts, own[role])
    return builder


def _print_cut(info: StoreInfo) -> None:
    """Print how many texts are longer than the model reads, and how much of all texts is lost."""
    if info.cut_texts and info.cut_tokens:
        console.print(
            f"{info.cut_texts:,} of {info.texts:,} texts are longer than {info.max_length} tokens and are cut there: "
            f"{info.cut_tokens / (info.tokens + info.cut_tokens):.1%} of all tokens are not read."
        )


def _report_unread(tables: Sequence[Table], unread: pl.Series, on_bad_row: OnBadRow) -> None:
    """Refuse texts of which the tokenizer leaves nothing, or print how many are dropped; by file and row."""
    locations = (find_text(*file, unread[0]) for table in tables for file in table.files())
    location = next(filter(None, locations), "data")
    found = f"{location}: found the text {unread[0]!r}, of which the tokenizer leaves nothing"
    if on_bad_row == "error":
        raise UserError(f"{found}, expected texts that the model can read.")
    console.print(f"dropped {len(unread):,} texts that the model cannot read; the first is {found}.")
