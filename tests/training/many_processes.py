"""Start small worlds of gloo processes for tests.

Processes are forked from a server that has imported everything, so that a world starts in about a second. The store of
the group is held here, as torchrun's agent holds it, and outlives every process.
"""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from conan_embed.training import processes

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["conan_embed.training.run", "tiny_models"])


def start_world(
    size: int, work: Callable[..., None], *arguments: Any, node_sizes: tuple[int, ...] = ()
) -> list[int | None]:
    """Call `work(*arguments)` in `size` processes of one group; return their exit codes when all have ended.

    Args:
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
    for process in running:
        process.join(60)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in running]


def _process(environment: dict[str, str], work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= environment
    torch.set_num_threads(1)
    work(*arguments)
    processes.stop()
