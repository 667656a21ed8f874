"""How often the processes of a group go through a sharded encoder.

Gathering a sharded layer (FSDP2) is a collective. So all processes have to make the same number of forward passes,
although one may have more chunks of texts than another.
"""

from collections.abc import Sequence

import numpy as np
from torch.distributed.fsdp import FSDPModule

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.encoder.packing import chunks_by_tokens
from conan_embed.texts.store import Texts


def num_passes(model: EmbeddingModel, texts: Texts, shares: Sequence[np.ndarray], token_budget: int) -> int:
    """Return the forward passes that every process has to make to embed its share in chunks of `token_budget` tokens.

    Args:
        shares: for every process the ids of its texts.

    Returns:
        1 where layers are not sharded, else the number of chunks of the process that has the most.
    """
    if not isinstance(model, FSDPModule):
        return 1
    budget = model.chunk_budget(token_budget)
    return max(1, *(sum(1 for _ in chunks_by_tokens(texts.lengths(share), budget)) for share in shares))
