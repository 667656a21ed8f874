"""run.json: what a run was, on which machine, and how long it took."""

import datetime
import platform
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch
import transformers

import conan_embed
from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.planning.plan import DataSummary
from conan_embed.training.roofline import matmul_peak_tokens_per_second

_ALWAYS = ("finished", "seconds")


@dataclass(frozen=True)
class RunRecord:
    """The content of run.json.

    Attributes:
        command: the command line.
        started, finished: ISO 8601, UTC; a run is not finished before its model is written.
        seconds: that it took, over all its starts; what a kill undid does not count.
        steps: optimizer steps in all.
        processes, device, threads: that it ran on.
        parameters, trained_parameters, width, widths, base: of the model.
        matmul_peak_tokens_per_second: see roofline.py.
        data: sizes of the data sets.
        versions: of the libraries that decide the numbers.
        chunk_tokens, activation_checkpointing: as the memory allowed, known at the end.
        compiled_graphs: of torch.compile, known at the end.
    """

    command: str
    started: str
    steps: int
    processes: int
    device: str
    threads: int
    parameters: int
    trained_parameters: int
    width: int
    widths: list[int]
    matmul_peak_tokens_per_second: float
    base: str
    data: DataSummary
    versions: dict[str, str]
    finished: str | None = None
    seconds: float | None = None
    chunk_tokens: int | None = None
    activation_checkpointing: bool | None = None
    compiled_graphs: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as run.json has it."""
        values = asdict(self) | self.data.to_json()
        del values["data"]
        return {name: value for name, value in values.items() if value is not None or name in _ALWAYS}


def describe_run(
    model: EmbeddingModel, data: DataSummary, *, base: str, precision: str, num_steps: int, started: str
) -> RunRecord:
    """Return the record of a run that begins now."""
    cuda = model.device.type == "cuda"
    return RunRecord(
        command=" ".join(["conan-embed", *sys.argv[1:]]),
        started=started,
        steps=num_steps,
        processes=collectives.world_size(),
        device=torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        threads=torch.get_num_threads(),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        width=model.width,
        widths=list(model.widths),
        matmul_peak_tokens_per_second=round(matmul_peak_tokens_per_second(model, precision), 1),
        base=base,
        data=data,
        versions={
            "conan-embed": conan_embed.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    )


def timestamp(seconds: float) -> str:
    """Return a time (as of `time.time()`) as ISO 8601, UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
