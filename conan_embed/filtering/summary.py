"""`summary.json` of a filter run, key by key: the funnel, the reasons, the languages, the scores, and samples to read.

summarise.py adds it up; `conan_embed.reporting` draws it.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from conan_embed.errors import UserError
from conan_embed.files import read_json


@dataclass(frozen=True)
class BadRows:
    """Rows of a file that cannot be used.

    Attributes:
        path: the file.
        rows: how many.
        reasons: reason -> rows.
        first: place and fault of the first: "line 7: column 'query': found the number 3, expected a string".
    """

    path: str
    rows: int
    reasons: dict[str, int]
    first: str


@dataclass(frozen=True)
class Rows:
    """Numbers of pairs."""

    read: int
    kept: int
    dropped: int


@dataclass(frozen=True)
class StageSpeed:
    """Processor seconds of a stage, so that its rate is per core."""

    seconds: float
    rows_per_second: int | None


@dataclass(frozen=True)
class Speed:
    """Wall-clock seconds of the run, over all its starts."""

    seconds: float
    rows_per_second: float | None
    workers: int
    stages: dict[str, StageSpeed]


@dataclass(frozen=True)
class Funnel:
    """Pairs left after each stage: in total, and category -> stage -> pairs."""

    stages: list[str]
    total: dict[str, int]
    categories: dict[str, dict[str, int]]


@dataclass(frozen=True)
class SourceCounts:
    """Pairs of a source; languages: side -> language -> share."""

    read: int
    kept: int
    languages: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Sample:
    """A dropped pair; `value` is what was measured, `duplicate_of` the id of the pair that it resembles."""

    query: str
    positive: str
    category: str
    source: str
    value: float | None
    duplicate_of: int | None
    id: int


@dataclass(frozen=True)
class Reason:
    """Pairs that went for a reason; `applied` also counts those that an earlier reason took."""

    stage: str
    reason: str
    about: str
    dropped: int
    applied: int
    categories: dict[str, int]
    samples: list[Sample]


@dataclass(frozen=True)
class Comparisons:
    """Pairs of texts compared for near-duplicates, those that were similar, and texts left undecided."""

    compared: int
    similar: int
    undecided: int


@dataclass(frozen=True)
class Scores:
    """Histogram of the teacher's scores: category -> pairs in each bin."""

    edges: list[float]
    minimum: float
    categories: dict[str, list[int]]


@dataclass(frozen=True)
class Summary:
    """The result of a filter run.

    Attributes:
        reasons: in the order of the stages.
        bad_rows: rows that could not be read, by file; they are not among `rows`.
        duplicates: None where the stage did not run.
        scores: None without a teacher.
    """

    rows: Rows
    speed: Speed
    funnel: Funnel
    sources: dict[str, SourceCounts]
    reasons: list[Reason]
    bad_rows: list[BadRows] = field(default_factory=list)
    duplicates: Comparisons | None = None
    scores: Scores | None = None

    @property
    def read(self) -> int:
        """Pairs read."""
        return self.rows.read

    @property
    def kept(self) -> int:
        """Pairs kept."""
        return self.rows.kept

    def to_json(self) -> dict[str, Any]:
        """Return the content of `summary.json`; what did not run is left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def read_summary(path: Path) -> Summary:
    """Read `summary.json`.

    Raises:
        UserError: it is no summary of a filter run.
    """
    try:
        return TypeAdapter(Summary).validate_python(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))  # none where the file holds no object
        fault = ": ".join(filter(None, [key, first["msg"]]))
        raise UserError(f"{path}: not the summary of a filter run: {fault}.") from None
