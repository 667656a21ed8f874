"""Start small worlds of gloo processes for tests.

Processes are forked from a server that has made the slow imports, so that a world starts in about a second. (Modules of
the tests would not be found there: before Python 3.12.4 it has another sys.path.) The store of the group is held here,
as torchrun's agent holds it, and outlives every process.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from conan_embed.distributed import collectives

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "conan_embed.training.run",
        "conan_embed.reporting.page",
        "transformers.models.bert.modeling_bert",
        "torch._dynamo",
    ]
)


def start_world(
    size: int,
    work: Callable[..., None],
    *arguments: Any,
    node_sizes: tuple[int, ...] = (),
    limit: float = 120,
) -> list[int | None]:
    """Call `work(*arguments)` in `size` processes of one group; return their exit codes when all have ended.

    Args:
        limit: seconds; whoever still runs then hangs, which is an error.
        node_sizes: processes of each node, where the environment is to look as torchrun leaves it on several.
    """
    server = dist.TCPStore("127.0.0.1", 0, size, is_master=True, wait_for_workers=False)
    nodes = [(node, local) for node, count in enumerate(node_sizes or (size,)) for local in range(count)]
    running = []
    for rank, (node, local) in enumerate(nodes):
        environment = {
            "RANK": rank,
            "WORLD_SIZE": size,
            "LOCAL_RANK": local,
            "LOCAL_WORLD_SIZE": (node_sizes or (size,))[node],
            "GROUP_RANK": node,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": server.port,
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        process = _context.Process(
            target=_process, args=({k: str(v) for k, v in environment.items()}, work, arguments)
        )
        process.start()
        running.append(process)
    end = time.monotonic() + limit
    for process in running:
        process.join(max(0.0, end - time.monotonic()))
    hanging = [rank for rank, process in enumerate(running) if process.is_alive()]
    for process in running:
        process.kill()
        process.join()
    assert not hanging, f"processes {hanging} hang"
    return [process.exitcode for process in running]


def _process(environment: dict[str, str], work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= environment
    torch.set_num_threads(1)
    work(*arguments)
    collectives.stop()
