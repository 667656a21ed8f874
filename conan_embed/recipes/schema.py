"""A recipe: all settings of a run. Its keys and their meanings are in data.py and sections.py.

loading.py reads a recipe from YAML and validates it against these classes. The descriptions are the documentation of
the keys: `conan-embed recipe --keys` prints them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, model_validator

from conan_embed.recipes.data import ClassificationData, Data, RecipeData, RetrievalData, StsData
from conan_embed.recipes.sections import (
    Evaluation,
    Loss,
    Mining,
    Model,
    Optimizer,
    Replacement,
    Step,
    Tracking,
    Training,
)
from conan_embed.recipes.teaching import Teacher
from conan_embed.recipes.validation import PathString, Section, validate


class Recipe(Section):
    """All settings of a training run: model, data, step, loss, hard negatives, optimizer, evaluation, output.

    Recipes are immutable. Start from `Recipe.small` in Python or from a YAML file (`Recipe.load`), and change what you
    need with `with_`. `conan-embed recipe --keys` lists every key with its default.

    Example:
        >>> recipe = ce.Recipe.small(model="sentence-transformers/all-MiniLM-L6-v2", retrieval="faq.jsonl")
        >>> recipe.step.queries, recipe.hard_negatives.source
        (32, 'bank')
        >>> recipe.with_(step={"queries": 64}).step.queries
        64
    """

    model: Model
    data: Data
    step: Step = Step()
    loss: Loss = Loss()
    teacher: Teacher | None = Field(None, description="a teacher beside the labels; null: none")
    mining: Mining = Mining()
    hard_negatives: Replacement = Replacement()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()
    output: PathString = "runs/conan-embed"
    cache: PathString = "cache"

    @model_validator(mode="after")
    def _tasks_have_data(self) -> "Recipe":
        retrieval = bool(self.data.retrieval or self.data.classification)
        if self.step.queries and not retrieval:
            raise ValueError(
                "step.queries: 0 was expected, since data names no retrieval or classification set"
            )
        if self.step.sts_pairs and not self.data.sts:
            raise ValueError("step.sts_pairs: 0 was expected, since data.sts names no set")
        if not self.step.queries and not self.step.sts_pairs:
            raise ValueError("step: queries and sts_pairs are both 0; expected at least one task")
        sets: list[RetrievalData | ClassificationData | StsData]
        sets = [*self.data.retrieval, *self.data.classification, *self.data.sts]
        weighted = [data.name for data in sets if data.weight is not None]
        if weighted and self.step.sampling_temperature is not None:
            raise ValueError(
                f"step.sampling_temperature: the data set {weighted[0]!r} has a weight; expected one or the other"
            )
        if self.step.mixing == "sequential" and not (self.step.queries and self.step.sts_pairs):
            raise ValueError("step.mixing: sequential needs both queries and sts_pairs")
        return self

    @model_validator(mode="after")
    def _teacher_has_queries(self) -> "Recipe":
        if self.teacher is None:
            return self
        if self.data.stream:
            raise ValueError("teacher: found beside data.stream, expected none: streamed texts are seen once")
        if not self.step.queries:
            raise ValueError("teacher: found beside step.queries: 0, expected queries to teach")
        return self

    @model_validator(mode="after")
    def _packed_weights_stay_whole(self) -> "Recipe":
        lora = self.model.lora
        if lora is not None and lora.bits is not None and self.training.sharding == "full":
            raise ValueError(
                "model.lora.bits: found 4 beside training.sharding: full, expected none or optimizer"
            )
        return self

    @model_validator(mode="after")
    def _streams_pairs_only(self) -> "Recipe":
        if not self.data.stream:
            return self
        for key, value in (("num_negatives", self.step.num_negatives), ("sts_pairs", self.step.sts_pairs)):
            if value:
                raise ValueError(f"step.{key}: found {value} beside data.stream, expected 0")
        for kind in ("classification", "sts"):
            if getattr(self.data, kind):
                raise ValueError(f"data.{kind}: found beside data.stream, which reads retrieval pairs only")
        return self

    @classmethod
    def small(
        cls,
        *,
        model: str | Path,
        retrieval: "str | Path | Mapping[str, Any] | RecipeData",
        sts: str | Path | Mapping[str, Any] | None = None,
        evaluation: str | Path | None = None,
        output: str | Path = "runs/small",
    ) -> "Recipe":
        """Return the shipped recipe `small` for your data: a fine-tuning that a laptop can do.

        32 queries a step with 4 hard negatives each, mined at the start (below 0.95 of the positive's score) and
        replaced once the model has learned them; 2 epochs at a learning rate of 2e-5.

        Args:
            model: hub name or folder of the model to start from.
            retrieval: pairs to train on: a file, what `read_pairs` returned, or a mapping of the keys that
                `data.retrieval` takes.
            sts: graded pairs (text_a, text_b, score) to train on in the same steps.
            evaluation: a folder of evaluation sets, scored before and after training.
            output: the run's folder.

        Raises:
            UserError: a key or a value that a recipe does not have.

        Example:
            >>> pairs = {"path": "faq.jsonl", "columns": {"query": "title", "positive": "answer"}}
            >>> recipe = ce.Recipe.small(model="sentence-transformers/all-MiniLM-L6-v2", retrieval=pairs)
            >>> recipe.data.retrieval[0].name, recipe.step.sts_pairs
            ('faq', 0)
        """
        from conan_embed.recipes.loading import data_entry, load_recipe  # which imports this file

        # Only what the file says: some defaults follow from other settings, which may be changed later.
        values = load_recipe("small").model_dump(mode="json", exclude_unset=True)
        values["model"]["base"] = str(model)
        values["data"] |= {
            "retrieval": [data_entry(retrieval)],
            "sts": [] if sts is None else [data_entry(sts)],
        }
        if sts is None:
            values["step"]["sts_pairs"] = 0
        if evaluation is not None:
            values["evaluation"] = {"folder": str(evaluation)}
        return validate(values | {"output": str(output)}, "Recipe.small", Recipe)

    @classmethod
    def load(cls, source: str | Path, overrides: list[str] | None = None) -> "Recipe":
        """Read a recipe from a YAML file, or a shipped one by its name, with `dotted.key=value` overrides on top.

        Raises:
            UserError: no such recipe, not YAML, an unknown key, or a value that does not fit.

        Example:
            >>> ce.Recipe.load("small", ["step.queries=64"]).step.queries
            64
        """
        from conan_embed.recipes.loading import load_recipe

        return load_recipe(source, overrides)

    def with_(self, **changes: Any) -> "Recipe":
        """Return a copy with some settings changed; sections are given as mappings and merged key by key.

        Raises:
            UserError: an unknown key, or a value that does not fit.

        Example:
            >>> recipe = ce.Recipe.small(model="sentence-transformers/all-MiniLM-L6-v2", retrieval="faq.jsonl")
            >>> changed = recipe.with_(step={"queries": 64}, output="runs/faq")
            >>> changed.step.queries, changed.step.num_negatives, changed.output
            (64, 4, 'runs/faq')
            >>> recipe.with_(step={"querys": 64})
            Traceback (most recent call last):
                ...
            conan_embed.errors.UserError: Recipe.with_: step.querys: unknown key (did you mean 'queries'?); ...
        """
        from conan_embed.recipes.loading import check_rule, merge

        given = self.model_dump(mode="json", exclude_unset=True)  # some defaults follow from other settings
        check_rule(given, changes, "Recipe.with_")
        return validate(merge(given, changes), "Recipe.with_", Recipe)

    @property
    def reads_scores(self) -> bool:
        """Whether a teacher's scores that stand beside the texts are of use."""
        return self.teacher is not None and self.teacher.kind == "columns"

    def as_dict(self) -> dict[str, Any]:
        """Return all settings as plain values, fit for JSON and YAML."""
        return self.model_dump(mode="json")

    def with_rankings(self, folder: Path) -> "Recipe":
        """Return the recipe with its retrieval sets reading their rankings from `folder` (see `conan-embed mine`)."""
        sets = [data.model_copy(update={"ranking": str(folder)}) for data in self.data.retrieval]
        return self.model_copy(update={"data": self.data.model_copy(update={"retrieval": sets})})

    def as_yaml(self) -> str:
        """The resolved recipe, every default written out."""
        return yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True)
