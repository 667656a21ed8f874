"""Our model as mteb sees one: its encoder protocol and its metadata. Imports mteb, which is an extra."""

import re
from typing import Any

import numpy as np
import xxhash
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta
from mteb.types import PromptType
from numpy.typing import NDArray

from conan_embed.encoder.fingerprint import fingerprint
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.encoder.prompts import INSTRUCTION
from conan_embed.errors import UserError
from conan_embed.evaluation.cached_encoder import CachedEncoder
from conan_embed.evaluation.mteb_tasks import dataset_name

_ROLES = {PromptType.query: "query", PromptType.document: "passage"}


class MtebEncoder(AbsEncoder):
    """One width of a model, its embeddings taken from a cache that all widths share.

    Prompts are those that the model has for the data set, else its general ones, by role: queries and documents of
    retrieval and reranking have theirs, all other texts are `sts`. With a template, the general ones count, and all but
    documents have mteb's instruction for the task in it instead.
    """

    def __init__(
        self, encoder: CachedEncoder, width: int, meta: ModelMeta, template: str | None = None
    ) -> None:
        self.encoder, self.width, self.mteb_model_meta, self.template = encoder, width, meta, template

    def encode(
        self, inputs: Any, *, task_metadata: TaskMetadata, prompt_type: PromptType | None = None, **_: Any
    ) -> NDArray[np.float32]:
        """Return float32 [N, width] for a loader whose batches hold their texts under "text"."""
        texts = [text for batch in inputs for text in batch["text"]]
        own = self.encoder.dataset_prompts.get(dataset_name(task_metadata)) if self.template is None else None
        prompt = (own or self.encoder.prompts)["sts" if prompt_type is None else _ROLES[prompt_type]]
        if self.template is not None and prompt_type != PromptType.document:
            instruction = self.get_instruction(task_metadata, prompt_type)
            prompt = self.template.replace(INSTRUCTION, instruction) if instruction else prompt
        return self.encoder.encode(texts, prompt=prompt, width=self.width)


def instruction_template(model: EmbeddingModel) -> str:
    """Return the prompt that a model puts an instruction into: its template, or the query's prompt of a saved one.

    Raises:
        UserError: its prompts have no place for an instruction.

    Example:
        >>> instruction_template(model).format(instruction="Find it.")  # doctest: +SKIP
        'Instruct: Find it.\\nQuery: '
    """
    template = next((text for text in model.templates.values() if INSTRUCTION in text), None)
    if template is not None:
        return template
    found = re.fullmatch(r"(Instruct: ).*(\nQuery: ?)", model.prompts["query"], re.DOTALL)
    if found is None:
        raise UserError(
            f"--instructions: found the query prompt {model.prompts['query']!r}, expected one with an instruction: "
            "'Instruct: ...\\nQuery:'."
        )
    return found[1] + INSTRUCTION + found[2]


def model_meta(
    model: EmbeddingModel,
    name: str,
    *,
    width: int,
    precision: str,
    template: str | None = None,
    base: str | None = None,
) -> ModelMeta:
    """Return mteb's metadata of one width of a model.

    The revision is a hash of everything that its vectors follow from, so results of a model that was trained further
    are kept apart. A narrower width is an experiment of mteb's with the keyword `embed_dim`.

    Args:
        name: "organisation/name".
        template: see `MtebEncoder`.
        base: hub name of the model that it was trained from.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    embeddings = sum(parameter.numel() for parameter in model.encoder.get_input_embeddings().parameters())
    return ModelMeta(
        loader=None,
        name=name,
        revision=revision_of(model, precision if template is None else f"{precision} {template}"),
        release_date=None,
        languages=None,
        n_parameters=parameters,
        n_embedding_parameters=embeddings,
        memory_usage_mb=round(4 * parameters / 2**20, 1),
        max_tokens=model.max_length,
        embed_dim=width,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["Sentence Transformers", "PyTorch", "safetensors"],
        similarity_fn_name="cosine",
        use_instructions=any(model.prompts.values()),
        training_datasets=None,
        adapted_from=base,
        experiment_kwargs=None if width == model.width else {"embed_dim": width},
    )


def revision_of(model: EmbeddingModel, precision: str) -> str:
    """Return 16 hexadecimal digits that change with all that embeddings depend on, and with the precision."""
    own = {name: sorted(prompts.items()) for name, prompts in sorted(model.dataset_prompts.items())}
    text = f"{fingerprint(model)} {precision}{f' {own}' if own else ''}"
    return xxhash.xxh3_64_hexdigest(text.encode())
