"""Two data sets, a table over them, and a model that changes: what the tests of dynamic negatives work on."""

from dataclasses import replace

import numpy as np
import torch

from conan_embed.negatives.dynamic import DynamicNegatives
from conan_embed.negatives.mining import mine
from conan_embed.negatives.prepare import first_backgrounds
from conan_embed.negatives.table import NegativeTable
from conan_embed.recipes.sections import Mining, Replacement
from tests.negatives.test_mining import embeddings, make_set

CHOSEN = Mining(depth=8, offset=2, precision="float32")


class World:
    """Two data sets (the second with random negatives), a table, and a model that `train` changes."""

    def __init__(self, cache, **settings):
        self.queries = [f"q{i}" for i in range(6)]
        data, store = make_set(
            cache, self.queries, [[f"p{i}"] for i in range(6)], [f"w{i}" for i in range(20)]
        )
        self.data, self.store = data, store
        other = replace(data, name="other", negative_source="random")
        self.vectors = embeddings(store)
        self.mined = mine(data, store, self.embed, CHOSEN).usable(CHOSEN.offset).ids_QK
        fixed = np.tile(data.passages[:8].astype(np.int32), (6, 1))
        self.table = NegativeTable(np.concatenate([self.mined, fixed]), 3)
        if settings.get("subtract_background"):
            self.table.backgrounds = first_backgrounds([data, other], self.embed)
        self.dynamic = DynamicNegatives(
            Replacement(decay=1.15, max_score=0.8, **settings),
            CHOSEN,
            self.table,
            [data, other],
            store,
            self.embed,
            width=8,
            fill=self.embed,
        )

    def embed(self, text_ids, description):
        return self.vectors[torch.from_numpy(text_ids)]

    def train(self, seed):
        self.vectors = embeddings(self.store, seed)

    def make_easy(self, rows):
        self.table.observe(np.array(rows), np.full((len(rows), 3), 0.7))
        self.table.observe(np.array(rows), np.full((len(rows), 3), 0.1))

    def after(self, step, texts=()):
        texts = np.array(texts, np.int64)
        record = self.dynamic.after_step(step, texts, self.vectors[torch.from_numpy(texts)])
        return None if record is None else record.to_json()

    def rows(self):
        return self.table.ranking_QK.copy(), (self.table.rank_QN[:, 0] // 3).tolist()
