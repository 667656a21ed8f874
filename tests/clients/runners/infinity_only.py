"""infinity: its engine as `infinity_emb v2` starts it, which adds no prompts."""

import asyncio

from common import job, prompted, write
from infinity_emb import AsyncEmbeddingEngine, EngineArgs

job = job()
arguments = EngineArgs(
    model_name_or_path=job["folder"], engine="torch", device="cpu", dtype="float32", bettertransformer=False
)


async def embed():
    engine = AsyncEmbeddingEngine.from_args(arguments)
    async with engine:
        query, _ = await engine.embed(sentences=prompted(job, "query"))
        passage, _ = await engine.embed(sentences=prompted(job, "passage"))
    return query, passage


write(job, *asyncio.run(embed()), "infinity-emb", "sentence-transformers", "transformers")
