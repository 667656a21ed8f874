"""The keys of a recipe, their defaults and meanings.

loading.py reads a recipe from YAML and validates it against these classes. The descriptions are the documentation of
the keys: `conan-embed recipe --keys` prints them.
"""

import os.path
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

Share = Annotated[float, Field(ge=0, le=1)]
Moment = Annotated[float, Field(ge=0, lt=1)]
PathString = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path, or a glob; `~` is the home directory."""


def _checked_name(name: str) -> str:
    """Names become file names (`files.file_name`), which are bounded."""
    if not name.strip() or len(name.encode()) > 150:
        raise ValueError(f"found {name!r}, expected a name of 1 to 150 bytes")
    return name


Name = Annotated[str, AfterValidator(_checked_name)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Model(_Section):
    """The encoder to start from and the embedding that it makes. What is left out comes from the base model."""

    base: PathString = Field(description="hub name, transformers folder or sentence-transformers folder")
    pooling: Literal["cls", "mean", "last"] | None = Field(
        None, description="else the base model's, else mean"
    )
    dense_width: PositiveInt | None = Field(
        None, description="outputs of the linear layer after pooling (1792 in the paper)"
    )
    widths: list[PositiveInt] | None = Field(
        None, description="Matryoshka prefixes; the full width is always trained"
    )
    max_length: PositiveInt | None = Field(None, description="tokens per text, special tokens included")
    prompts: dict[str, str] | None = Field(
        None, description="text put before queries, passages and sts texts"
    )
    dropout: Share | None = Field(0.0, description="on every dropout of the encoder; null keeps its own")
    trust_remote_code: bool = Field(False, description="run code that comes with the base model")


class RetrievalData(_Section):
    """Queries with their positives, and negatives or a passage collection to mine them from."""

    name: Name
    path: PathString = Field(
        description="file, folder or glob: .jsonl, .parquet, .csv, or a saved Hugging Face data set"
    )
    columns: dict[str, str] = Field(
        {}, description="query, positive, negative: the names of the columns in the file"
    )
    corpus: PathString | None = Field(
        None, description="passages to mine from; else all passages of this data set"
    )
    corpus_columns: dict[str, str] = {}
    negative_source: Literal["mined", "given", "random", "none"] = Field(
        "mined",
        description="mined rankings, the file's own lists, random other passages, or none (in-batch only)",
    )
    ranking: PathString | None = Field(
        None, description="folder written by `conan-embed mine`; else mined at the start"
    )
    weight: PositiveFloat | None = Field(None, description="share of the queries; else by size")
    limit: PositiveInt | None = Field(None, description="use the first rows only")


class ClassificationData(_Section):
    """Labelled texts, turned into retrieval: same class positive, other class negative (section 2.2 of the paper)."""

    name: Name
    path: PathString
    columns: dict[str, str] = {}
    negative_source: Literal["mined", "random", "none"] = "random"
    weight: PositiveFloat | None = None
    limit: PositiveInt | None = None


class StsData(_Section):
    """Graded text pairs."""

    name: Name
    path: PathString
    columns: dict[str, str] = Field(
        {}, description="text_a, text_b, score: the names of the columns in the file"
    )
    weight: PositiveFloat | None = None
    limit: PositiveInt | None = None


class Data(_Section):
    """The tasks and their files."""

    retrieval: list[RetrievalData] = []
    classification: list[ClassificationData] = []
    sts: list[StsData] = []
    on_bad_row: Literal["error", "drop"] = Field(
        "error", description="a bad row stops the run, or is dropped and counted"
    )
    stream: bool = Field(
        False,
        description="read pairs from Parquet shards while they are needed: data that does not fit into memory, "
        "in-batch negatives only",
    )
    shuffle_window: PositiveInt = Field(
        65_536, description="stream: rows of each data set that are in memory, shuffled among each other"
    )

    @model_validator(mode="after")
    def _names_differ(self) -> "Data":
        names = [
            *(data.name for data in self.retrieval),
            *(data.name for data in self.classification),
            *(data.name for data in self.sts),
        ]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two data sets have the name {twice[0]!r}; expected different names")
        if not names:
            raise ValueError("no data set; expected at least one under retrieval, classification or sts")
        return self


class Step(_Section):
    """What one optimizer step holds: n queries x m negatives, and p STS pairs, always together."""

    queries: int = Field(16, ge=0)
    positives: PositiveInt = Field(1, description="positives of each query in the step, of all that it has")
    num_negatives: int = Field(7, ge=0, description="hard negatives of each query")
    in_batch: Literal["step", "dataset", "step_hard", "dataset_hard", "none"] = Field(
        "dataset",
        description="candidates of other queries are negatives too: all of the step, those of the same data set; "
        "..._hard: their hard negatives only, without their positives (the paper's sum is step_hard); none",
    )
    sts_pairs: int = Field(32, ge=0)
    mixing: Literal["joint", "sequential"] = Field(
        "joint",
        description="sequential: one task drawn at random per step, the baseline that the paper argues against",
    )
    one_dataset: bool = Field(False, description="all queries of a step from one data set")
    sampling_temperature: PositiveFloat | None = Field(
        None,
        description="share of a data set by its size to the power of 1 / this: above 1, small sets come more often "
        "than by size; instead of weights",
    )
    too_few_negatives: Literal["error", "allow"] = Field(
        "error", description="what to do where a query has fewer negatives than asked"
    )


class Loss(_Section):
    """L = L_retrieval + beta L_sts (the paper's Cross-GPU Batch Balance loss)."""

    temperature: PositiveFloat = Field(0.02, description="tau of InfoNCE")
    sts_temperature: PositiveFloat = Field(0.05, description="tau of CoSENT")
    beta: float = Field(0.8, ge=0)
    ignore_above_positive: float | None = Field(
        None,
        description="a guard against false negatives: candidates whose cosine lies above the positive's by more than "
        "this margin are ignored (0.1 is usual); null: none",
    )


class Mining(_Section):
    """How rankings of hard negatives are made."""

    depth: PositiveInt = Field(200, description="ranks kept per query")
    offset: int = Field(10, ge=0, description="first ranks never used: they may be unlabelled positives")
    max_positive_ratio: PositiveFloat | None = Field(
        None, description="keep a candidate only where its score < this times the positive's (0.95 is usual)"
    )
    subtract_background: bool = Field(
        False,
        description="count max_positive_ratio from the background, the mean cosine of unrelated texts: for models "
        "whose cosines all lie high (E5)",
    )
    min_usable: int = Field(
        0,
        ge=0,
        description="ranks that each query should have after offset and bound: those with fewer are searched again, "
        "deeper, up to the whole corpus",
    )
    precision: Literal["bfloat16", "float32"] = "bfloat16"


class Replacement(_Section):
    """Dynamic hard negative mining (section 4 of the paper)."""

    source: Literal["static", "ranking", "bank", "remine"] = Field(
        "static",
        description="never replaced; the next ranks of the mined ranking (the paper); "
        "ranked anew from a bank of passage embeddings; ranked anew from the whole corpus, encoded again",
    )
    rule: Literal["mean", "each", "share"] = Field(
        "mean",
        description="when: the mean score of a query's negatives fell (v1); each negative by itself (v2); each by its "
        "share of the softmax",
    )
    interval: PositiveInt = Field(
        100, description="steps between checks (1 in v2: whatever a step saw is judged)"
    )
    decay: PositiveFloat = Field(1.15, description="mean, each: replace where decay * S < S_0 (1.2 in v2)")
    max_score: PositiveFloat = Field(0.8, description="mean, each: and |S| < max_score (0.7 in v2)")
    too_easy: float | None = Field(
        0.4, description="each: replace also where S_0 < this, too easy from the start; null: not so"
    )
    min_share: Share = Field(
        0.02,
        description="share: replace where the softmax over the positive and this negative alone gives it less; means "
        "the same for every model and temperature",
    )
    subtract_background: bool = Field(
        False,
        description="count S and S_0 from the background, the mean cosine of unrelated texts: for models whose cosines "
        "all lie high (E5), where the paper's bounds on the cosine itself never fire",
    )
    on_exhausted: Literal["keep", "restart"] = Field(
        "keep", description="at the end of a ranking: stay, or begin again"
    )
    bank_width: PositiveInt | None = Field(
        None, description="Matryoshka prefix kept in the bank; else the full width"
    )
    refresh: int = Field(0, ge=0, description="passages of the bank encoded anew per step, oldest first")


class Optimizer(_Section):
    """AdamW with warm-up."""

    learning_rate: PositiveFloat = 1e-5
    weight_decay: float = Field(0.001, ge=0)
    betas: tuple[Moment, Moment] = (0.9, 0.999)
    epsilon: PositiveFloat = 1e-8
    warmup_ratio: Share = 0.05
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: PositiveFloat | None = 1.0


class Training(_Section):
    """How long, how precise, how often."""

    steps: PositiveInt | None = Field(None, description="else from epochs")
    epochs: PositiveFloat = Field(
        1.0, description="passes over the retrieval queries (the STS pairs where there are none)"
    )
    seed: int = 0
    precision: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="of matrix products; weights stay float32"
    )
    chunk_tokens: PositiveInt | None = Field(
        None, description="tokens per packed forward; else 16,384, or what fits if that is less"
    )
    activation_checkpointing: bool | None = Field(
        None,
        description="keep no activations: memory of one chunk, a third more time; else where a step does not fit",
    )
    compile: bool = Field(
        False, description="torch.compile the encoder's layers (minutes once, less memory traffic)"
    )
    placement: Literal["balanced", "dedicated"] = Field(
        "balanced",
        description="which process embeds what: by token count, or some only STS texts; the loss is the same",
    )
    sts_share: Share = Field(
        0.2, description="dedicated: share of the processes for STS texts (figure 3: one in five)"
    )
    sharding: Literal["none", "optimizer", "full"] = Field(
        "none",
        description="what the processes share out among them instead of each holding it: nothing; AdamW's moments "
        "(ZeRO stage 1, the paper's); parameters and gradients too (FSDP2); the numbers are the same",
    )
    timeout: PositiveFloat = Field(
        10.0, description="minutes that a process of several waits for another within a step"
    )
    checkpoint_every: int = Field(500, ge=0, description="steps; 0: only at the end")
    keep_checkpoints: PositiveInt = Field(2, description="checkpoints kept")


class Evaluation(_Section):
    """A development folder to watch; the best model by the average is the one that is kept."""

    folder: PathString | None = None
    tasks: list[str] | None = Field(None, description='as "retrieval/MedicalQA" or "sts"; else all')
    every: int = Field(0, ge=0, description="steps; 0: before and after training only")
    keep_best: bool = Field(True, description="model/ is the best evaluated step, else the last")


class Tracking(_Section):
    """Where metrics go besides metrics.jsonl; without an account, each of these stays on this machine."""

    tensorboard: bool = True
    wandb: bool = Field(
        False, description="Weights & Biases; offline unless WANDB_API_KEY or WANDB_MODE is set"
    )
    trackio: bool = Field(False, description="Trackio; `trackio show` opens it")
    mlflow: bool = Field(
        False, description="MLflow; into mlflow.db of the run directory unless MLFLOW_TRACKING_URI is set"
    )
    project: str = Field("conan-embed", description="under which wandb, trackio and mlflow file the run")


class RecipeData(Protocol):
    """Data that knows how a recipe names it, as `Pairs` does."""

    def recipe_entry(self) -> dict[str, Any]:
        """Return `path` and whatever else `data.retrieval` takes, such as `name` and `columns`."""
        ...


class Recipe(_Section):
    """All settings of a training run: model, data, step, loss, hard negatives, optimizer, evaluation, output.

    Recipes are immutable. Start from `Recipe.small` in Python or from a YAML file (`Recipe.load`), and change what you
    need with `with_`. `conan-embed recipe --keys` lists every key with its default.

    Example:
        >>> recipe = ce.Recipe.small(model="sentence-transformers/all-MiniLM-L6-v2", retrieval="faq.jsonl")
        >>> recipe.step.queries, recipe.hard_negatives.source
        (32, 'ranking')
        >>> recipe.with_(step={"queries": 64}).step.queries
        64
    """

    model: Model
    data: Data
    step: Step = Step()
    loss: Loss = Loss()
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

        32 queries a step with 4 hard negatives each, mined at the start and replaced once the model has learned them;
        2 epochs at a learning rate of 2e-5.

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
        from conan_embed.recipes.loading import data_entry, load_recipe, validate  # which import this file

        values = load_recipe("small").as_dict()
        values["model"]["base"] = str(model)
        values["data"] |= {
            "retrieval": [data_entry(retrieval)],
            "sts": [] if sts is None else [data_entry(sts)],
        }
        if sts is None:
            values["step"]["sts_pairs"] = 0
        values["evaluation"]["folder"] = None if evaluation is None else str(evaluation)
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
        from conan_embed.recipes.loading import merge, validate

        return validate(merge(self.as_dict(), changes), "Recipe.with_", Recipe)

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
