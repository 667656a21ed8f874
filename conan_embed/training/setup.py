"""What a run is made of before its first step, each part from the section of the recipe that describes it."""

from pathlib import Path

import torch

from conan_embed.distributed import collectives
from conan_embed.encoder.adapter import add_lora
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.encoder.prompts import INSTRUCTION, asks_for_instruction, dataset_prompts
from conan_embed.errors import UserError
from conan_embed.negatives.embedding import Embed, embed_with
from conan_embed.planning.plan import StepSource
from conan_embed.planning.planner import Planner
from conan_embed.planning.streaming import StreamPlanner, open_streams
from conan_embed.recipes.data import ClassificationData, Data, RetrievalData, StsData
from conan_embed.recipes.sections import Model, Step, Training
from conan_embed.texts.loading import load_tasks
from conan_embed.texts.task_files import read_tasks, write_tasks
from conan_embed.texts.tasks import Tasks


def load_base_model(settings: Model, seed: int) -> EmbeddingModel:
    """Load the model to start from.

    Args:
        seed: of an adapter, and of a dense layer that the base model does not have: they are drawn at random, the same
            on every process.
    """
    torch.manual_seed(seed)
    model = EmbeddingModel.load(
        settings.base,
        pooling=settings.pooling,
        attention=settings.attention,
        end_token=settings.end_token,
        include_prompt=settings.include_prompt,
        dense_width=settings.dense_width,
        widths=settings.widths,
        prompts=settings.prompts,
        instruction=settings.instruction,
        max_length=settings.max_length,
        dropout=settings.dropout,
        trust_remote_code=settings.trust_remote_code,
    )
    if settings.lora is not None:
        add_lora(model, settings.lora, settings.base)
    return model


def load_data(
    settings: Data, cache: str | Path, model: EmbeddingModel, *, with_scores: bool = False
) -> Tasks:
    """Read and tokenise the data files: one process of each node does, the others map what it wrote.

    Nodes may share a disk or have their own: each uses the cache as it sees it.

    Args:
        with_scores: read a teacher's scores that stand beside the texts, too.
    """
    cache = Path(cache)
    add_dataset_prompts(settings, model)
    if not collectives.is_local_main_process():
        return read_tasks(Path(collectives.broadcast_on_node(None)), cache)
    tasks = load_tasks(
        settings,
        model.prompts,
        model.tokenize,
        fingerprint=f"{model.max_length} {model.tokenizer_text()}",
        cache=cache,
        count_tokens=model.count_tokens,
        dataset_prompts=model.dataset_prompts,
        with_scores=with_scores,
    )
    collectives.broadcast_on_node(str(write_tasks(tasks, cache)) if collectives.node_size() > 1 else "")
    return tasks


def add_dataset_prompts(settings: Data, model: EmbeddingModel) -> None:
    """Give the model the prompts of data sets that have their own: they are saved with it, and used in evaluation.

    Raises:
        UserError: a role that the set's texts do not have, or an instruction that no prompt asks for.
    """
    datasets: list[RetrievalData | ClassificationData | StsData]
    datasets = [*settings.retrieval, *settings.classification, *settings.sts]
    prompts = [model.templates, *(data.prompts or {} for data in datasets)]
    if model.instruction is not None and not any(map(asks_for_instruction, prompts)):
        raise UserError(
            f"model.instruction: found {model.instruction!r}, but no prompt asks for it; expected {INSTRUCTION} in "
            "model.prompts."
        )
    for data in datasets:
        # Texts of classification are read like those of STS (texts/tables.py).
        own = dataset_prompts(
            model.templates,
            model.instruction,
            data.name,
            data.prompts,
            data.instruction,
            roles=("query", "passage") if isinstance(data, RetrievalData) else ("sts",),
        )
        if own is not None:
            model.dataset_prompts[data.name] = own


def make_source(
    data: Data,
    step: Step,
    seed: int,
    cache: str | Path,
    model: EmbeddingModel,
    *,
    with_scores: bool = False,
) -> tuple[StepSource, Tasks | None]:
    """Return what plans the steps, and the data in memory (None where pairs are streamed)."""
    if data.stream:
        add_dataset_prompts(data, model)
        return StreamPlanner(open_streams(data), model.prompts, model.tokenize, step, seed), None
    tasks = load_data(data, cache, model, with_scores=with_scores)
    return Planner(tasks, step, seed), tasks


def make_embed(tasks: Tasks, model: EmbeddingModel, settings: Training) -> Embed:
    """Return what embeds texts of the data with the model as it is now."""
    return embed_with(model, tasks.store, settings.precision, settings.chunk_tokens)


def epochs_of(data: Data, step: Step, source: StepSource, num_steps: int) -> float | None:
    """Return how often a run sees each query; None where some come more often than others."""
    weights = [*(each.weight for each in data.retrieval), *(each.weight for each in data.classification)]
    if any(weight is not None for weight in weights) or step.sampling_temperature is not None:
        return None
    return num_steps / source.steps_for(1)
