"""The sections of a recipe other than its data: keys, defaults and meanings."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from conan_embed.recipes.validation import Moment, PathString, Section, Share


class Lora(Section):
    """A low-rank adapter that is trained instead of the encoder (needs conan-embed[lora])."""

    rank: PositiveInt = 16
    alpha: PositiveFloat | None = Field(
        None, description="else twice the rank; updates are scaled by alpha / rank"
    )
    dropout: Moment = 0.0
    targets: Literal["all", "attention"] | list[str] = Field(
        "all", description="linear layers to adapt: all, those of the attention, or names (q_proj, v_proj)"
    )
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank): steadier at high ranks")
    dora: bool = Field(False, description="learn the length of each weight row apart from its direction")
    bits: Literal[4] | None = Field(
        None,
        description="4: hold the frozen linear layers in 4 bits (needs conan-embed[lora-4bit]); else float32",
    )
    save: Literal["merged", "adapter"] = Field(
        "merged", description="the result: a whole model, or the adapter beside the name of its base"
    )

    @model_validator(mode="after")
    def _dora_knows_the_weights(self) -> "Lora":
        if self.bits is not None and self.dora:
            raise ValueError(
                "bits: found 4 beside dora, expected one of them: dora rescales the frozen weights"
            )
        return self


class Model(Section):
    """The encoder to start from and the embedding that it makes. What is left out comes from the base model."""

    base: PathString = Field(description="hub name, transformers folder or sentence-transformers folder")
    pooling: Literal["cls", "mean", "last"] | None = Field(
        None, description="else the base model's, else mean"
    )
    attention: Literal["causal", "bidirectional"] | None = Field(
        None, description="of a decoder: tokens see those before them, or all; else the base model's own"
    )
    end_token: bool | None = Field(
        None,
        description="end every text with the tokenizer's end token, also where it is cut; else only where a model "
        "newly gets last-token pooling and its tokenizer adds none",
    )
    include_prompt: bool | None = Field(
        None, description="pool the tokens of a prompt with those of its text; else as the base model does"
    )
    dense_width: PositiveInt | None = Field(
        None, description="outputs of the linear layer after pooling (1792 in the paper)"
    )
    widths: list[PositiveInt] | None = Field(
        None, description="Matryoshka prefixes; the full width is always trained"
    )
    max_length: PositiveInt | None = Field(None, description="tokens per text, special tokens included")
    prompts: dict[str, str] | None = Field(
        None,
        description="text put before queries, passages and sts texts; {instruction} in it stands for an instruction",
    )
    instruction: str | None = Field(None, description="of data sets without one of their own")
    dropout: Share | None = Field(0.0, description="on every dropout of the encoder; null keeps its own")
    trust_remote_code: bool = Field(False, description="run code that comes with the base model")
    lora: Lora | None = Field(None, description="train an adapter instead of the encoder")


class Step(Section):
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


class Loss(Section):
    """L = L_retrieval + beta L_sts (the paper's Cross-GPU Batch Balance loss)."""

    temperature: PositiveFloat = Field(0.02, description="tau of InfoNCE")
    sts_temperature: PositiveFloat = Field(0.05, description="tau of CoSENT")
    beta: float = Field(0.8, ge=0)
    ignore_above_positive: float | None = Field(
        None,
        description="a guard against false negatives: candidates whose cosine lies above the positive's by more than "
        "this margin are ignored (0.1 is usual); null: none",
    )
    spread_out: PositiveFloat | None = Field(
        None,
        description="weight of the spread-out term: the mean squared cosine of two different queries plus that of two "
        "different positives; vectors then lose less in few bits; null: none",
    )


class Mining(Section):
    """How rankings of hard negatives are made."""

    depth: PositiveInt = Field(200, description="ranks kept per query")
    offset: int = Field(10, ge=0, description="first ranks never used: they may be unlabelled positives")
    max_positive_ratio: PositiveFloat | None = Field(
        None,
        description="keep a candidate only where its score < this times the positive's (0.95 is usual); "
        "not for classes",
    )
    subtract_background: bool = Field(
        False,
        description="count max_positive_ratio from the background, the mean cosine of unrelated texts: for models "
        "whose cosines all lie high (E5)",
    )
    min_usable: int = Field(
        0,
        ge=0,
        description="ranks that each query should have after offset and bound: those with fewer are searched again "
        "for the first ranks under their bound, in the whole corpus",
    )
    precision: Literal["bfloat16", "float32"] = "bfloat16"


class Replacement(Section):
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
    decay: PositiveFloat = Field(
        default_factory=lambda data: 1.2 if data.get("rule") == "each" else 1.15,
        description="mean, each: replace where decay * S < S_0; else 1.15 (v1), and 1.2 for each (v2)",
    )
    max_score: PositiveFloat = Field(
        default_factory=lambda data: 0.7 if data.get("rule") == "each" else 0.8,
        description="mean, each: and |S| < max_score; else 0.8 (v1), and 0.7 for each (v2)",
    )
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


class Optimizer(Section):
    """AdamW with warm-up."""

    learning_rate: PositiveFloat = 1e-5
    weight_decay: float = Field(0.001, ge=0)
    betas: tuple[Moment, Moment] = (0.9, 0.999)
    epsilon: PositiveFloat = 1e-8
    warmup_ratio: Share = 0.05
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: PositiveFloat | None = 1.0


class Training(Section):
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


class Evaluation(Section):
    """Development sets to watch; the best model by the average is the one that is kept."""

    folder: PathString | None = None
    mteb: list[str] | None = Field(
        None,
        description="retrieval sets of mteb by name, such as NanoBEIR (13 small ones) or NanoNQRetrieval; loaded from "
        "the hub once",
    )
    tasks: list[str] | None = Field(None, description='as "retrieval/MedicalQA" or "sts"; else all')
    every: int = Field(0, ge=0, description="steps; 0: before and after training only")
    patience: PositiveInt | None = Field(
        None, description="early stopping: end after this many evaluations without a better one; null: never"
    )
    keep_best: bool = Field(True, description="model/ is the best evaluated step, else the last")
    hold_out: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="share of the pairs of data.retrieval to keep out of training and to evaluate on, by groups that "
        "share a text; at least 150 questions where there are enough",
    )

    @model_validator(mode="after")
    def _is_patient_between_evaluations(self) -> "Evaluation":
        if self.patience is not None and not (self.every and (self.folder or self.mteb or self.hold_out)):
            raise ValueError(
                "patience: found beside no sets or every: 0, expected both: it counts evaluations"
            )
        return self


class Tracking(Section):
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
