"""The section of a recipe that describes a teacher."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from conan_embed.recipes.validation import PathString, Section


class Teacher(Section):
    """A model, or scores in the data, from which the student learns beside its labels.

    Each loss has a weight of its own: kl compares the softmax over a query's candidates, margin_mse the distances
    between positives and negatives, embedding the embeddings themselves.
    """

    kind: Literal["bi-encoder", "cross-encoder", "columns"] = Field(
        "bi-encoder",
        description="bi-encoder: knows every pair, in-batch candidates and replaced negatives too; cross-encoder: "
        "positives and the first ranks; columns: scores in the data, in tables or beside its texts",
    )
    model: PathString | None = Field(None, description="folder or hub name; none with columns")
    kl: float = Field(0.0, ge=0, description="weight of the KL divergence over a step's candidates")
    margin_mse: float = Field(0.0, ge=0, description="weight of the squared error of margins")
    embedding: float = Field(0.0, ge=0, description="weight of 1 - cosine to the embeddings of a bi-encoder")
    contrastive: float = Field(1.0, ge=0, description="weight of InfoNCE beside them")
    temperature: PositiveFloat = Field(0.05, description="kl: of the student's cosines")
    teacher_temperature: PositiveFloat | None = Field(
        None, description="kl: of the teacher's scores; else the same"
    )
    scale: PositiveFloat = Field(
        1.0, description="teacher scores are multiplied by this: logits may be far larger than cosines"
    )
    ignore_above_positive: float | None = Field(
        None,
        description="the teacher's guard: negatives whose teacher score (after scale) lies above the positive's by "
        "more than this are ignored, by InfoNCE and kl alike; -0.05 ignores those just below it, too; null: none",
    )
    prompts: dict[str, str] | None = Field(None, description="of the teacher; else its own")
    depth: PositiveInt = Field(50, description="cross-encoder: ranks of each query that are scored")
    batch_size: PositiveInt = Field(64, description="cross-encoder: pairs scored at once")
    precision: Literal["bfloat16", "float32"] = "bfloat16"

    @model_validator(mode="after")
    def _has_something_to_teach(self) -> "Teacher":
        if (self.kind == "columns") == (self.model is not None):
            found = "no model" if self.model is None else f"the model {self.model!r}"
            expected = "none" if self.kind == "columns" else "one"
            raise ValueError(f"found {found} for the kind {self.kind!r}, expected {expected}")
        if self.embedding and self.kind != "bi-encoder":
            raise ValueError(
                f"embedding: found a weight for the kind {self.kind!r}, expected 0: it has no embeddings"
            )
        if not (self.kl or self.margin_mse or self.embedding or self.ignore_above_positive is not None):
            raise ValueError("found no weight; expected kl, margin_mse, embedding or ignore_above_positive")
        return self
