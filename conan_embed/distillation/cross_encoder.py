"""A cross-encoder's scores of each query's positives and of the first ranks of its mined ranking.

A cross-encoder reads both texts together, so nothing can be prepared: a score costs a forward pass. The pairs that a
run may use are scored once, before training, and kept on disk; a resumed run reads the same numbers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conan_embed.console import tracked
from conan_embed.distillation.pair_scores import PairScores
from conan_embed.distributed import collectives
from conan_embed.encoder.encode import autocast
from conan_embed.encoder.loading import local_folder, quiet_transformers
from conan_embed.encoder.positions import usable_positions
from conan_embed.errors import UserError
from conan_embed.files import atomic_write
from conan_embed.negatives.rankings import NONE
from conan_embed.negatives.table import NegativeTable
from conan_embed.recipes.teaching import Teacher
from conan_embed.texts.tasks import Tasks


def score_pairs(
    settings: Teacher, tasks: Tasks, table: NegativeTable | None, cache: Path, device: torch.device
) -> PairScores:
    """Score the pairs of the data with the recipe's cross-encoder, or read the scores of an earlier run.

    All processes must call it; each scores its share.

    Raises:
        UserError: the model is no cross-encoder with a single score.
    """
    assert settings.model is not None
    query, passage = pairs_to_score(tasks, table, settings.depth)
    folder = local_folder(settings.model)
    key = xxhash.xxh3_128(f"{settings.precision} {settings.batch_size} {_weights_hash(folder)}".encode())
    for ids in (query, passage):
        key.update(np.ascontiguousarray(tasks.store.hashes[ids]).tobytes())
    path = cache / "teacher" / f"{key.hexdigest()}.npy"
    if not collectives.all_true(path.exists()):
        scores = _score(settings, folder, tasks, query, passage, device)
        if collectives.is_local_main_process():
            with atomic_write(path) as aside, aside.open("wb") as file:
                np.save(file, scores)
        collectives.barrier()
    content = tasks.store.content
    num_contents = int(content.max()) + 1
    return PairScores(content[query], content[passage], np.load(path), num_contents=num_contents)


def pairs_to_score(tasks: Tasks, table: NegativeTable | None, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return text ids of queries and passages: every query with its positives and its first `depth` ranks."""
    queries, passages = [], []
    for data in tasks.retrieval:
        row, positive = data.positives.rows(data.list_Q)
        queries.append(data.query_Q[row])
        passages.append(positive)
    if table is not None:
        all_queries = np.concatenate([data.query_Q for data in tasks.retrieval])
        ranking_QK = table.ranking_QK[:, :depth]
        row, rank = np.nonzero(ranking_QK != NONE)
        queries.append(all_queries[row])
        passages.append(ranking_QK[row, rank].astype(np.int64))
    pairs = np.unique(np.stack([np.concatenate(queries), np.concatenate(passages)], axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _weights_hash(folder: Path) -> str:
    """Hash the files of a model folder."""
    key = xxhash.xxh3_128()
    for path in sorted(
        path for kind in ("*.json", "*.txt", "*.model", "*.safetensors") for path in folder.glob(kind)
    ):
        key.update(path.name.encode())
        key.update(path.read_bytes())
    return key.hexdigest()


class CrossEncoder:
    """Scores pairs of texts that it reads together.

    Args:
        folder: of the model.
        key: the setting that names it, for messages.
        batch_size: pairs scored at once.
        precision: "bfloat16" or "float32".

    Raises:
        UserError: no model for pairs of texts with a single score.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        *,
        key: str,
        batch_size: int = 64,
        precision: str = "bfloat16",
    ) -> None:
        self.tokenizer, model = _load(folder, key)
        self.model = model.to(device)
        # Some folders have a tokenizer that knows no length.
        self.max_length = min(self.tokenizer.model_max_length, usable_positions(model.base_model))
        self.device, self.batch_size, self.precision = device, batch_size, precision

    def score(self, queries: Sequence[str], passages: Sequence[str]) -> torch.Tensor:
        """Return float32 [N], the logits of these pairs, on its device; long texts are cut off."""
        batches = range(0, len(queries), self.batch_size)
        with torch.inference_mode(), autocast(self.device, self.precision):
            scores = [
                self._score(queries[i : i + self.batch_size], passages[i : i + self.batch_size])
                for i in batches
            ]
        return torch.cat(scores) if scores else torch.empty(0, device=self.device)

    def _score(self, queries: Sequence[str], passages: Sequence[str]) -> torch.Tensor:
        batch = self.tokenizer(
            list(queries),
            list(passages),
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        ).to(self.device)
        scores: torch.Tensor = self.model(**batch).logits[:, 0].float()
        return scores


def _load(folder: Path, key: str) -> tuple[Any, Any]:
    """Return tokenizer and model."""
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model, report = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:  # the libraries raise many kinds; each means that the model is unusable
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"{key}: {folder}: cannot be loaded as a cross-encoder: {reason}") from error
    if report["missing_keys"] or model.config.num_labels != 1:
        missing = ", ".join(sorted(report["missing_keys"])[:2]) or f"{model.config.num_labels} labels"
        raise UserError(
            f"{key}: {folder}: found {missing} (missing or too many), expected a cross-encoder with one score."
        )
    return tokenizer, model.eval()


def _score(
    settings: Teacher,
    folder: Path,
    tasks: Tasks,
    query: np.ndarray,
    passage: np.ndarray,
    device: torch.device,
) -> np.ndarray:
    """Return float32 [N], the logits of all pairs, on every process.

    The batches are those of one process, dealt out: a score does not depend on the number of processes.
    """
    size = settings.batch_size
    model = CrossEncoder(folder, device, key="teacher.model", batch_size=size, precision=settings.precision)
    lengths = tasks.store.lengths(query) + tasks.store.lengths(passage)
    order = np.argsort(-lengths, kind="stable")
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    scores = torch.zeros(len(query), device=device)
    for rows in tracked(batches[collectives.rank() :: collectives.world_size()], "teacher"):
        texts = ([tasks.store.text(int(ids[row])) for row in rows] for ids in (query, passage))
        scores[torch.from_numpy(rows).to(device)] = model.score(*texts)
    collectives.barrier()
    result: np.ndarray = collectives.all_reduce_sum(scores).cpu().numpy()
    return result
