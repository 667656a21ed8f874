"""Dynamic hard negatives (section 4 of the paper) for users of sentence-transformers.

    hard = HardNegatives(model, pairs, per_query=3)          # pairs: a datasets.Dataset with anchor and positive
    loss = MultipleNegativesRankingLoss(model)
    trainer = SentenceTransformerTrainer(model, args, train_dataset=hard.dataset, loss=loss)
    hard.watch(trainer)
    trainer.train()

How it works. A ranking of hard negatives is mined for every anchor (negatives/mining.py). `hard.dataset` holds the
pairs alone; its transform adds the negatives *in use* whenever a row is read, from a small table in shared memory, so
that the trainer's dataloader workers see a replacement at their next read. (A callback that gave the trainer another
data set would change nothing: its loader keeps the first.) `watch` hooks the trainer's losses and model: the
embeddings that a loss makes anyway give the cosines S, and at every `interval` steps the rule of the recipe
(negatives/rules.py) replaces what is no longer hard. It also wraps the trainer's collator, so that no row's negative is
another row's positive. The column `label` tells which row and which replacement a batch holds; losses over hard
negatives (MultipleNegativesRankingLoss, CachedMultipleNegativesRankingLoss, GISTEmbedLoss, TripletLoss, each also
inside MatryoshkaLoss) do not use it.

Look-ahead. Loaders read ahead: one batch without workers, up to workers x prefetch factor with them, so as many batches
after a check may still hold the old negatives. They are known by their label and not counted as scores of the new ones.
Without workers a resumed run reads the very same batches; with workers the order depends on their speed.

Shapes: Q queries (rows of the data set), B rows of a batch, n negatives per query, D width.
"""

import zlib
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from conan_embed.console import console
from conan_embed.distributed import collectives
from conan_embed.errors import UserError
from conan_embed.files import atomic_write
from conan_embed.integrations.in_use import AddNegatives, NegativesInUse, WithoutFalseNegatives
from conan_embed.integrations.loss_scores import LossScores, SeenBatch, scale_of
from conan_embed.integrations.pairs import check_texts, read_column, retrieval_dataset, rows_with_enough
from conan_embed.negatives.background import StepMeans, above_background
from conan_embed.negatives.dynamic import DynamicNegatives
from conan_embed.negatives.mining import mine
from conan_embed.negatives.outlook import obstacles
from conan_embed.negatives.prepare import first_backgrounds
from conan_embed.negatives.rankings import known_scores
from conan_embed.negatives.table import NegativeTable
from conan_embed.recipes.sections import Mining, Replacement

try:
    import datasets
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
except ImportError as error:
    raise UserError(
        f"{error.name}: not installed; pip install 'conan-embed[sentence-transformers]' brings what is needed."
    ) from None

# The trainer logs the step itself; only a bank works between checks.
_NOT_LOGGED = ("step", "seconds_between")

__all__ = ["HardNegatives", "Mining", "Replacement"]


def _means_of(batches: Sequence[SeenBatch]) -> StepMeans:
    """Return the means over the rows of all batches, which are of the one data set."""
    count = sum(len(batch.labels) for batch in batches)
    mean_2D = np.stack([batch.sum_2D for batch in batches]).sum(axis=0, dtype=np.float64) / count
    return StepMeans(np.zeros(1, np.int64), np.array([count]), mean_2D[:1], mean_2D[1:])


def _in_our_words(sentence: str) -> str:
    """Return a sentence about a recipe with the arguments of `HardNegatives`, which offers no bank."""
    return sentence.replace("source: bank", "source: remine").replace("hard_negatives.", "replacement.")


class HardNegatives(TrainerCallback):
    """Pairs whose hard negatives are mined now and replaced while a SentenceTransformerTrainer trains.

    Args:
        model: the model that will be trained; it mines the rankings as it is now.
        pairs: a data set with the columns `anchor` and `positive` (texts), or those that `columns` names. All positives
            of equal anchors are known positives of each other's rows and never mined.
        per_query: n, hard negatives of each query in use at once.
        corpus: texts to mine from, besides the positives.
        replacement: when and by what to replace, as in a recipe; `source` is ranking, remine or static. The rule
            `share` needs a loss with a `scale` or `temperature`.
        mining: depth, offset and positive-aware bound of the rankings, as in a recipe.
        columns: the names of the two columns.
        prompts: text put before each column's texts, by column name. Give the trainer the same: `prompts=hard.prompts`
            in its arguments, which has the columns of the negatives too.
        name: of this data set, where a trainer has several; logs and files in checkpoints bear it.
        batch_size: texts encoded at once for mining.
        cache: folder for the texts, which are memory-mapped.

    Attributes:
        dataset: what to give the trainer as `train_dataset` (or in its dictionary of data sets); queries with fewer
            than n negatives are left out.
        prompts: by column, negatives included.
        table: the negatives table.

    Raises:
        UserError: a column that is missing, a text that is missing or blank, too few candidates, or a source that is
            not offered.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        pairs: "datasets.Dataset",
        *,
        per_query: int = 3,
        corpus: Iterable[str] = (),
        replacement: Replacement = Replacement(source="ranking"),  # noqa: B008 (frozen)
        mining: Mining = Mining(),  # noqa: B008 (frozen)
        columns: tuple[str, str] = ("anchor", "positive"),
        prompts: dict[str, str] | None = None,
        name: str = "negatives",
        batch_size: int = 64,
        cache: str | Path = "cache",
    ) -> None:
        if replacement.source == "bank":
            raise UserError(
                "replacement.source: bank is a source of `conan-embed train`; expected ranking, remine or static."
            )
        self.model, self.name, self.settings, self.batch_size = model, name, replacement, batch_size
        anchor, positive = columns
        given = prompts or {}
        added = [f"negative_{number}" for number in range(1, per_query + 1)]
        self.prompts = {
            anchor: given.get(anchor, ""),
            **dict.fromkeys([positive, *added], given.get(positive, "")),
        }
        frame = pl.DataFrame({"anchor": read_column(pairs, anchor), "positive": read_column(pairs, positive)})
        passages = check_texts("corpus", list(corpus))
        self.data, self.store = retrieval_dataset(
            name, frame, passages, (self.prompts[anchor], self.prompts[positive]), Path(cache)
        )
        ranking = mine(self.data, self.store, self._embed, mining)
        usable = ranking.usable(mining.offset)
        backgrounds = first_backgrounds([self.data], self._embed) if replacement.subtract_background else None
        scores = known_scores(usable, 0.0 if backgrounds is None else float(backgrounds.value_S[0]))
        initial = np.full((len(frame), per_query), np.nan, np.float32)
        initial[:, : scores.shape[1]] = scores[:, :per_query]
        self.table = NegativeTable(usable.ids_QK, per_query, initial)
        self.table.background, self.table.backgrounds = ranking.background, backgrounds
        rows = rows_with_enough(self.table, self.data, mining.offset)
        self._dynamic = DynamicNegatives(
            replacement, mining, self.table, [self.data], self.store, self._embed, width=0, fill=None
        )
        self._in_use = NegativesInUse(self.table)
        self._mark = zlib.crc32(name.encode())
        frame = frame[rows]
        self.dataset = datasets.Dataset.from_dict(
            {anchor: frame["anchor"].to_list(), positive: frame["positive"].to_list(), "label": rows.tolist()}
        )
        self._add = AddNegatives(self._in_use, self.store, columns, added, self._mark)
        self.dataset.set_transform(self._add)
        self._trainer: SentenceTransformerTrainer | None = None
        self._scores = LossScores(self._mark, per_query)

    # ------------------------------------------------------------------------------------------- scores

    def watch(self, trainer: SentenceTransformerTrainer) -> None:
        """Read scores off the trainer's losses and check as it trains; call once, before `trainer.train()`.

        Raises:
            UserError: the rule needs the temperature of a loss that has none.
        """
        assert self._trainer is None, "watched already"
        self._trainer = trainer
        trainer.add_callback(self)
        trainer.data_collator = cast(
            Any,
            WithoutFalseNegatives(trainer.data_collator, self._add, self.data.known_positives(self.store)),
        )
        losses = self._scores.watch(trainer)
        if self.settings.rule == "share" and not any(scale_of(loss) for loss in losses):
            raise UserError(
                "replacement.rule: share measures scores in temperatures; found no loss with a scale or temperature."
            )

    def _observe(self) -> None:
        """Note in the table what the losses of all processes have seen since the last time, batch by batch."""
        mine = self._scores.take()
        backgrounds = self.table.backgrounds
        for of_processes in zip_longest(*collectives.all_gather_object(mine)):
            batches: list[SeenBatch] = [batch for batch in of_processes if batch is not None]
            if backgrounds is not None:  # of all processes together: the same however many there are
                backgrounds.update(_means_of(batches))
            for labels, score, share, _ in batches:
                row, replacement = labels[:, 1], labels[:, 2]
                # Else read ahead, before they were replaced; or put in a place that is not theirs.
                still = replacement == self.table.replacements_Q[row]
                if backgrounds is not None:
                    score = above_background(score, backgrounds.value_S[0])
                self.table.observe(row[still], score[still], share[still])

    # --------------------------------------------------------------------------------- the trainer's events

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take up the checkpoint's table where the trainer resumes one; else print what keeps negatives in place.

        Raises:
            UserError: the processes of the group each train on all of the data.
        """
        trainer = cast(SentenceTransformerTrainer, self._trainer)
        if trainer.accelerator.num_processes != collectives.world_size():
            raise UserError(
                f"{self.name}: the trainer runs as {trainer.accelerator.num_processes} process, but "
                f"{collectives.world_size()} were started; each would train on all of the data. On CPUs, expected "
                "use_cpu=True in the trainer's arguments."
            )
        if state.global_step:
            self._load(self._file(args, state))
        elif state.is_world_process_zero:
            epochs = args.num_train_epochs if args.max_steps <= 0 else None
            sentences = obstacles(
                self.settings, self.table, [self.data], num_steps=state.max_steps, epochs=epochs
            )
            for sentence in sentences:
                console.print(f"{self.name}: {_in_our_words(sentence)}")

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A loader begins anew: nothing has been read ahead."""
        self._scores.num_batches = 0
        self._in_use.begin()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Check at every `interval` steps; what it found goes to the trainer's log."""
        if self.settings.source == "static" or state.global_step % self.settings.interval:
            return
        self._observe()
        record = self._dynamic.after_step(state.global_step, np.empty(0, np.int64), torch.empty(0, 0))
        assert record is not None
        self._in_use.replace(self.table, self._scores.num_batches)
        if record.replaced and state.is_world_process_zero:
            console.print(f"{self.name}: {record}")
        figures = {
            f"{self.name}/{key}": value
            for key, value in record.to_json().items()
            if key not in _NOT_LOGGED and value is not None
        }
        cast(SentenceTransformerTrainer, self._trainer).log(figures)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Write the table into the trainer's checkpoint."""
        self._observe()
        if not state.is_world_process_zero:
            return
        with atomic_write(self._file(args, state)) as aside:
            save_file(
                {name: np.ascontiguousarray(array) for name, array in self._state().items()},
                aside,
                metadata={"texts": self.store.identity()},
            )

    def _state(self) -> dict[str, np.ndarray]:
        return {**self._dynamic.state(), **self._in_use.state(self._scores.num_batches)}

    def _file(self, args: TrainingArguments, state: TrainerState) -> Path:
        return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / f"{self.name}.safetensors"

    def _load(self, path: Path) -> None:
        if not path.exists():
            raise UserError(
                f"{path}: no such file; expected the negatives of the checkpoint that the trainer resumes, "
                "which must lie in its output_dir."
            )
        with safe_open(path, "numpy") as file:
            texts = (file.metadata() or {}).get("texts")
        arrays = load_file(path)
        expected = {name: array.shape for name, array in self._state().items()}
        if (
            texts != self.store.identity()
            or {name: array.shape for name, array in arrays.items()} != expected
        ):
            raise UserError(
                f"{path}: made for other texts or settings; expected the pairs, corpus, per_query, mining and "
                "replacement of that run."
            )
        in_use = {name: arrays.pop(name) for name in ("before_QN", "ahead")}
        self._dynamic.load_state(arrays)
        self._in_use.load_state(in_use, self.table)

    # -------------------------------------------------------------------------------------------- embedding

    @torch.no_grad()
    def _embed(self, text_ids: np.ndarray, description: str) -> torch.Tensor:
        """Embed texts of the store; processes share the work, and every one gets all rows, of length 1."""
        parts = np.array_split(text_ids, collectives.world_size())
        count = len(parts[collectives.rank()])
        mine = parts[collectives.rank()] if count else text_ids[:1]  # without a share, for the shape of a row
        anchor, positive = list(self.prompts.values())[:2]
        prompts = [anchor if is_query else positive for is_query in np.isin(mine, self.data.query_Q)]
        training = self.model.training
        rows = self.model.encode(
            [prompt + self.store.text(int(text)) for prompt, text in zip(prompts, mine, strict=True)],
            prompt="",
            batch_size=self.batch_size,
            show_progress_bar=bool(description) and console.is_terminal,
            convert_to_tensor=True,
            normalize_embeddings=True,
        )
        self.model.train(training)
        return collectives.all_gather_rows(rows[:count].float(), [len(part) for part in parts])
