"""What a step costs on many GPUs, at the paper's size and at ten times its size: bytes, memory, seconds.

    python -m benchmarks.scaling [--write]

A calculation, not a measurement: no GPU is used. Rates are those that NVIDIA publishes for the H100 SXM (dense bf16
989 TFLOP/s, 80 GB of HBM3 at 3.35 TB/s, NVLink 450 GB/s in each direction) with one 400 Gb/s network port a GPU, eight
GPUs a node. What share of a rate is reached is assumed, in one place (`REACHED_*`); 48 % of the matrix product alone is
what our step reaches on CPUs (benchmarks/results/train_speed_2026-11-23.md). The paper's own machines (Ascend 910B) have
about a third of the matrix rate.

The step is that of the paper's fine-tuning, kept per GPU: 4 queries, or 32 STS pairs on one GPU in five, with 7
negatives a query, 200 tokens a text, seven Matryoshka widths up to 1792. Placement is balanced.
"""

import argparse
from dataclasses import dataclass

from benchmarks.machine import write_result

GEMM = 989e12  # FLOP/s, dense bf16
HBM = 3.35e12  # bytes/s
MEMORY = 80e9  # bytes
NVLINK, NETWORK = 450e9, 50e9  # bytes/s of one GPU, one direction
PER_NODE = 8
REACHED_GEMM, REACHED_LINK, REACHED_HBM = 0.40, 0.70, 0.70
LATENCY = 20e-6  # seconds that a collective takes per doubling of the GPUs, however little it carries

QUERIES, NEGATIVES, PAIRS, STS_SHARE, TOKENS = 4, 7, 32, 0.2, 200
WIDTHS = (256, 512, 768, 1024, 1280, 1536, 1792)
CHUNK_TOKENS = 16_384
GPUS = (16, 64, 512)


@dataclass(frozen=True)
class Size:
    """A model and its data.

    Attributes:
        parameters, layers, hidden, width: of the encoder and its embedding.
        passages, queries: texts that can be mined, and queries with a ranking.
    """

    name: str
    parameters: float
    layers: int
    hidden: int
    width: int
    passages: float
    queries: float


PAPER = Size("paper: 326 M parameters", 326e6, 24, 1024, 1792, 2.3e6, 2.3e6)
TENFOLD = Size("ten times: 3.3 B parameters", 3.26e9, 36, 2752, 1792, 23e6, 23e6)


@dataclass(frozen=True)
class Cost:
    """One step of one size on so many GPUs; bytes and seconds of the busiest GPU."""

    texts: int
    candidates: int
    gathered: float
    gradients: float
    states: float
    sharded_states: float
    activations: float
    encode: float
    loss: float
    gather: float
    reduce: float
    update: float
    mining: float
    table: float
    passages: float

    @property
    def seconds(self) -> float:
        return self.encode + self.loss + self.gather + self.reduce + self.update


def cost(size: Size, gpus: int) -> Cost:
    """Work out one step."""
    retrieval_gpus = gpus - round(STS_SHARE * gpus)
    queries, pairs = QUERIES * retrieval_gpus, PAIRS * (gpus - retrieval_gpus)
    candidates = queries * (1 + NEGATIVES)
    texts = queries + candidates + 2 * pairs
    tokens = texts * TOKENS / gpus  # of one GPU
    # Forward and backward: 6 FLOP a parameter and token, and 12 layers x hidden x length a token for attention.
    flop = tokens * (6 * size.parameters + 12 * size.layers * size.hidden * TOKENS)
    # InfoNCE over all candidates of the step, rows shared out: the full-width product serves every prefix; two more
    # products for the gradients, with one float32 score a width in between, written and read twice.
    scores = queries / gpus * candidates
    loss = 6 * scores * size.width / (GEMM * REACHED_GEMM)
    loss += 4 * 4 * scores * len(WIDTHS) / (HBM * REACHED_HBM)
    # CoSENT is not shared out: every GPU reads all pairs' embeddings forward and backward (it sorts; p log p is little).
    loss += 4 * 4 * 2 * pairs * size.width / (HBM * REACHED_HBM)
    link = NVLINK if gpus <= PER_NODE else NETWORK
    steps = LATENCY * max(1, (gpus - 1).bit_length())
    gathered = 4 * texts * size.width  # float32
    gather = gathered * (gpus - 1) / gpus / (link * REACHED_LINK) + steps  # all-gather, forward
    gather += 2 * gathered * (gpus - 1) / gpus / (link * REACHED_LINK) + steps  # all-reduce, backward
    gradients = 4 * size.parameters
    # An all-reduce between nodes of eight: inside the node each GPU reduces an eighth, so its port carries an eighth.
    reduce = (
        2 * gradients / (NVLINK * REACHED_LINK) + 2 * gradients / PER_NODE / (NETWORK * REACHED_LINK) + steps
    )
    states = 4 * size.parameters * 4  # weights, gradients, two moments, float32
    activations = min(tokens, CHUNK_TOKENS) * size.layers * size.hidden * 34  # bytes, bf16, no recomputation
    activations *= max(1, tokens / CHUNK_TOKENS)
    activations += 3 * gathered  # all embeddings, their gradient, the order put back
    return Cost(
        texts=texts,
        candidates=candidates,
        gathered=gathered,
        gradients=gradients,
        states=states,
        sharded_states=states / 2 + states / 2 / gpus,  # ZeRO stage 1: the moments
        activations=activations,
        encode=flop / (GEMM * REACHED_GEMM),
        loss=loss,
        gather=gather,
        reduce=reduce,
        update=7 * 4 * size.parameters / (HBM * REACHED_HBM),
        mining=(
            2 * size.passages * TOKENS * size.parameters / gpus
            + 2 * size.queries / gpus * size.passages * size.width
        )
        / (GEMM * REACHED_GEMM),
        table=4 * 200 * size.queries,
        passages=4 * size.passages * size.width,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the dated result file")
    arguments = parser.parse_args()
    lines = []
    for size in (PAPER, TENFOLD):
        costs = [cost(size, gpus) for gpus in GPUS]
        mega, giga = 1e6, 1e9
        rows = {
            "queries + positives and negatives + STS texts": [f"{c.texts:,}" for c in costs],
            "candidates in one softmax": [f"{c.candidates:,}" for c in costs],
            "embeddings gathered, MB a GPU": [f"{c.gathered / mega:,.0f}" for c in costs],
            "gradients summed, MB a GPU": [f"{c.gradients / mega:,.0f}" for c in costs],
            "weights, gradients, moments, GB a GPU": [f"{c.states / giga:.1f}" for c in costs],
            "the same, moments shared out (ZeRO 1)": [f"{c.sharded_states / giga:.1f}" for c in costs],
            "activations and embeddings, GB a GPU": [f"{c.activations / giga:.1f}" for c in costs],
            "encode, ms": [f"{1e3 * c.encode:.0f}" for c in costs],
            "loss, ms": [f"{1e3 * c.loss:.1f}" for c in costs],
            "gather and its gradient, ms": [f"{1e3 * c.gather:.1f}" for c in costs],
            "sum of gradients, ms (not hidden)": [f"{1e3 * c.reduce:.0f}" for c in costs],
            "update, ms": [f"{1e3 * c.update:.0f}" for c in costs],
            "step, ms": [f"{1e3 * c.seconds:.0f}" for c in costs],
            "share of it not encoding": [f"{1 - c.encode / c.seconds:.0%}" for c in costs],
            "mining once, minutes": [f"{c.mining / 60:.1f}" for c in costs],
            "negatives table, GB a process (host)": [f"{c.table / giga:.1f}" for c in costs],
            "passage embeddings while mining, GB a GPU": [f"{c.passages / giga:.0f}" for c in costs],
        }
        lines += [f"## {size.name}", "", f"| GPUs | {' | '.join(map(str, GPUS))} |", "|---|---|---|---|"]
        lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
        lines.append("")
    what = "Calculated from published rates and assumed shares of them (see the script), on no GPU."
    write_result("scaling", what, lines, arguments.write)


if __name__ == "__main__":
    main()
