"""The section `data` of a recipe: which files are trained on, and how they are read."""

from typing import Any, Literal, Protocol

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from conan_embed.recipes.validation import Name, PathString, Section


class RetrievalData(Section):
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
    corpus_columns: dict[str, str] = Field({})
    negative_source: Literal["mined", "given", "random", "none"] = Field(
        "mined",
        description="mined rankings, the file's own lists, random other passages, or none (in-batch only)",
    )
    ranking: PathString | None = Field(
        None, description="folder written by `conan-embed mine`; else mined at the start"
    )
    scores: PathString | None = Field(
        None,
        description="a table of query, passage and score (graded relevance, or a teacher's scores), for teacher.kind: "
        "columns; else those beside the texts",
    )
    scores_columns: dict[str, str] = Field({})
    prompts: dict[str, str] | None = Field(
        None, description="of this data set, instead of the model's, by role"
    )
    instruction: str | None = Field(None, description="put where a prompt says {instruction}")
    weight: PositiveFloat | None = Field(None, description="share of the queries; else by size")
    limit: PositiveInt | None = Field(None, description="use the first rows only")


class ClassificationData(Section):
    """Labelled texts, turned into retrieval: same class positive, other class negative (section 2.2 of the paper)."""

    name: Name
    path: PathString
    columns: dict[str, str] = Field({})
    negative_source: Literal["mined", "random", "none"] = "random"
    prompts: dict[str, str] | None = Field(
        None, description="of this data set, instead of the model's, by role"
    )
    instruction: str | None = Field(None, description="put where a prompt says {instruction}")
    weight: PositiveFloat | None = None
    limit: PositiveInt | None = None


class StsData(Section):
    """Graded text pairs."""

    name: Name
    path: PathString
    columns: dict[str, str] = Field(
        {}, description="text_a, text_b, score: the names of the columns in the file"
    )
    prompts: dict[str, str] | None = Field(
        None, description="of this data set, instead of the model's, by role"
    )
    instruction: str | None = Field(None, description="put where a prompt says {instruction}")
    weight: PositiveFloat | None = None
    limit: PositiveInt | None = None


class Data(Section):
    """The tasks and their files."""

    retrieval: list[RetrievalData] = Field([])
    classification: list[ClassificationData] = Field([])
    sts: list[StsData] = Field([])
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
    def _streams_have_the_models_prompts(self) -> "Data":
        for data in self.retrieval if self.stream else ():
            for key in ("prompts", "instruction", "scores"):
                if getattr(data, key) is not None:
                    raise ValueError(
                        f"retrieval {data.name!r}: found {key} beside data.stream, expected none"
                    )
        return self

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


class RecipeData(Protocol):
    """Data that knows how a recipe names it, as `Pairs` does."""

    def recipe_entry(self) -> dict[str, Any]:
        """Return `path` and whatever else `data.retrieval` takes, such as `name` and `columns`."""
        ...
