"""SentenceTransformerTrainer with negatives that are replaced: a real trainer, a tiny random model, 24 steps."""

import os
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conan_embed.distributed import collectives
from conan_embed.errors import UserError
from conan_embed.negatives.rules import MeanRule, mean_scores
from conan_embed.negatives.table import NegativeTable
from tests.support.many_processes import start_world
from tests.tiny_models import SENTENCES, make_tiny_model

sentence_transformers = pytest.importorskip("sentence_transformers")
datasets = pytest.importorskip("datasets")

try:
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        CoSENTLoss,
        MatryoshkaLoss,
        MultipleNegativesRankingLoss,
    )
except ImportError:  # before version 6
    from sentence_transformers.losses import (
        CachedMultipleNegativesRankingLoss,
        CoSENTLoss,
        MatryoshkaLoss,
        MultipleNegativesRankingLoss,
    )

from conan_embed.integrations.in_use import OUT_OF_PLACE, WithoutFalseNegatives  # noqa: E402
from conan_embed.integrations.loss_scores import SeenBatch  # noqa: E402
from conan_embed.integrations.sentence_transformers import HardNegatives, Mining, Replacement  # noqa: E402

QUERIES, PER_QUERY, BATCH, INTERVAL = 16, 2, 2, 6
# Half of any S here is below its S_0: whatever was seen twice is replaced.
EAGER = Replacement(source="ranking", interval=INTERVAL, decay=0.5, max_score=2.0)
MINING = Mining(depth=24, offset=2, precision="float32")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    make_tiny_model("bert", hidden=16, layers=1).save(folder)
    return folder


def some_texts(count, seed):
    generator = np.random.default_rng(seed)
    words = sorted({word for sentence in SENTENCES for word in sentence.split() if word.isascii()})
    return [" ".join(generator.choice(words, 6)) for _ in range(count)]


def pairs():
    return datasets.Dataset.from_dict({"anchor": some_texts(QUERIES, 1), "positive": some_texts(QUERIES, 2)})


class Recorded(MultipleNegativesRankingLoss):
    """A loss that keeps what it was given: labels, and the tokens of every column."""

    def __init__(self, model):
        super().__init__(model)
        self.batches = []

    def forward(self, sentence_features, labels):
        features = list(sentence_features)
        if self.model.training:
            self.batches.append((labels.numpy().copy(), [column["input_ids"].clone() for column in features]))
        return super().forward(features, labels)


def hard_negatives(model, replacement, cache):
    return HardNegatives(
        model,
        pairs(),
        per_query=PER_QUERY,
        corpus=some_texts(30, 3),
        replacement=replacement,
        mining=MINING,
        cache=cache,
    )


def train(
    base, output, *, steps=24, loss=Recorded, replacement=EAGER, resume=None, cache="cache", **arguments
):
    model = sentence_transformers.SentenceTransformer(str(base), device="cpu")
    hard = hard_negatives(model, replacement, output.parent / cache)
    settings = {"save_strategy": "no", "seed": 3, "dataloader_num_workers": 0} | arguments
    trainer = sentence_transformers.SentenceTransformerTrainer(
        model,
        sentence_transformers.SentenceTransformerTrainingArguments(
            str(output),
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            learning_rate=3e-3,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            **settings,
        ),
        train_dataset=hard.dataset,
        loss=loss(model),
    )
    hard.watch(trainer)
    trainer.train(resume_from_checkpoint=resume)
    return hard, trainer


def logged(trainer):
    return [line for line in trainer.state.log_history if "negatives/replaced" in line]


def positives_of_others(hard, labels):
    """Negatives of a batch that are known positives of one of its queries."""
    rows, ids = labels[:, 1], labels[:, 3:].ravel()
    known = hard.data.known_positives(hard.store)
    return [int(ids[column]) for column in known.pairs(rows, ids)[1]]


def text_of(model, tokens):
    return [model.tokenizer.decode(row, skip_special_tokens=True) for row in tokens]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_read_after_a_check_hold_the_new_negatives(base, tmp_path, workers):
    """An epoch is 8 steps: the check at 18 comes when the third epoch's workers were started long before it."""
    ahead = {"dataloader_prefetch_factor": 1} if workers else {}
    hard, trainer = train(base, tmp_path / "run", steps=23, dataloader_num_workers=workers, **ahead)
    checks = logged(trainer)
    assert [line["step"] for line in checks] == [6, 12, 18]
    assert sum(line["negatives/replaced"] for line in checks) == hard.table.replacements_Q.sum()
    assert checks[-1]["negatives/replaced"] > 0
    batches = trainer.loss.batches
    newest = np.zeros(QUERIES, int)
    for labels, columns in batches:
        _, rows, placement = labels.T[:3]
        # In use is the window of that placement (each replacement moves one window on), and nothing else.
        ids = hard.table.ranking_QK[rows[:, None], placement[:, None] * PER_QUERY + np.arange(PER_QUERY)]
        moved = placement == OUT_OF_PLACE  # a negative was another row's positive
        ids[moved] = labels[moved, 3:]
        assert not positives_of_others(hard, labels)
        rows, placement = rows[~moved], placement[~moved]
        expected = [[hard.store.text(int(text)) for text in column] for column in ids.T]
        tokens = [trainer.model.preprocess(column)["input_ids"] for column in expected]
        for found, wanted in zip(columns[2:], tokens, strict=True):
            assert text_of(trainer.model, found) == text_of(trainer.model, wanted)
        assert (placement >= newest[rows]).all()
        newest[rows] = placement
    # At step 18 at most 3 batches had been read ahead.
    rows, placement = np.concatenate([labels for labels, _ in batches[21:]])[:, 1:3].T
    rows, placement = rows[placement >= 0], placement[placement >= 0]
    np.testing.assert_array_equal(placement, hard.table.replacements_Q[rows])
    assert placement.max() > 0
    assert list(hard.dataset[3]) == ["anchor", "positive", "negative_1", "negative_2", "label"]


@pytest.mark.parametrize(("relative", "decay"), [(False, 0.985), (True, 1.002)])
def test_scores_and_replacements_are_those_of_a_table_fed_by_hand(base, tmp_path, relative, decay):
    """The trainer's embeddings, looked at from outside, through NegativeTable alone."""
    outputs = []

    class Seen(Recorded):
        def compute_loss_from_embeddings(self, embeddings, labels):
            outputs.append([column.detach().double() for column in embeddings])
            return super().compute_loss_from_embeddings(embeddings, labels)

    rule = Replacement(
        source="ranking", interval=INTERVAL, decay=decay, max_score=0.99, subtract_background=relative
    )
    hard, trainer = train(base, tmp_path / "run", loss=Seen, replacement=rule)
    model = sentence_transformers.SentenceTransformer(str(base), device="cpu")
    fresh = HardNegatives(
        model,
        pairs(),
        per_query=PER_QUERY,
        corpus=some_texts(30, 3),
        replacement=rule,
        mining=MINING,
        cache=tmp_path / "cache",
    )
    table, checks = fresh.table, []
    assert isinstance(table, NegativeTable)
    if relative:  # the running mean by hand
        background, positive_mean = fresh.table.backgrounds.state().values()
        background, positive_mean = background[0], torch.from_numpy(positive_mean[0].copy())
    for step, ((labels, _), embeddings) in enumerate(zip(trainer.loss.batches, outputs, strict=True), 1):
        unit = [column / column.norm(dim=1, keepdim=True) for column in embeddings]
        if relative:
            rate = BATCH / 64
            background += rate * (float(unit[0].mean(dim=0) @ positive_mean) - background)
            positive_mean += rate * (unit[1].mean(dim=0) - positive_mean)
        for place, (_, row, placement, *_) in enumerate(labels.tolist()):
            score = np.array([[float(unit[0][place] @ column[place]) for column in unit[2:]]])
            if relative:
                score = (score - background) / (1 - background)
            if placement == table.replacements_Q[row]:
                table.observe(np.array([row]), score)
        if step % INTERVAL == 0:
            rows = table.take_seen()
            scores = table.initial_QN[rows], table.current_QN[rows]
            learned = MeanRule(rule.decay, rule.max_score).learned(*scores, table.share_QN[rows])
            flagged = learned.any(axis=1)
            replaced = table.advance(rows[flagged], learned[flagged], whole=True).any(axis=1)
            observed = ~np.isnan(mean_scores(*scores)[1])
            checks.append((int(observed.sum()), int(replaced.sum())))
    assert 0 < table.replacements_Q.sum() < 4 * QUERIES
    np.testing.assert_array_equal(hard.table.replacements_Q, table.replacements_Q)
    np.testing.assert_allclose(hard.table.current_QN, table.current_QN, atol=1e-5)
    np.testing.assert_allclose(hard.table.initial_QN, table.initial_QN, atol=1e-5)
    assert [(line["negatives/observed"], line["negatives/replaced"]) for line in logged(trainer)] == checks


@pytest.mark.parametrize(
    "loss",
    [
        lambda model: CachedMultipleNegativesRankingLoss(model, mini_batch_size=3),
        lambda model: MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), [16, 8]),
    ],
    ids=["cached", "matryoshka"],
)
def test_scores_do_not_depend_on_how_a_loss_goes_through_the_model(base, tmp_path, loss):
    """One step: the S of the batch's queries are the same cosines whatever the loss; before any replacement."""
    never = EAGER.model_copy(update={"interval": 1, "decay": 9.0})
    plain, _ = train(base, tmp_path / "a", steps=1, replacement=never)
    other, _ = train(base, tmp_path / "b", steps=1, replacement=never, loss=loss)
    seen = np.isfinite(plain.table.current_QN)
    assert seen.any(axis=1).sum() == BATCH
    np.testing.assert_allclose(other.table.current_QN, plain.table.current_QN, atol=1e-5)
    # Mining ranked them with this very model: S_0 is what the first step sees.
    np.testing.assert_allclose(plain.table.current_QN[seen], plain.table.initial_QN[seen], atol=1e-3)


@pytest.mark.parametrize("source", ["ranking", "remine"])
def test_a_resumed_run_reads_the_same_batches_and_makes_the_same_replacements(base, tmp_path, source):
    """Saved right at a check, when a batch with the old negatives is already read ahead."""
    rule = EAGER.model_copy(update={"source": source})
    arguments = {"save_strategy": "steps", "save_steps": INTERVAL, "steps": 30}
    whole, first = train(base, tmp_path / "run", replacement=rule, **arguments)
    checkpoint = tmp_path / "run" / "checkpoint-18"
    again, second = train(base, tmp_path / "run", replacement=rule, resume=str(checkpoint), **arguments)
    assert whole.table.replacements_Q.sum() > QUERIES
    assert len(second.loss.batches) == 12
    for (labels, columns), (labels_again, columns_again) in zip(
        first.loss.batches[18:], second.loss.batches, strict=True
    ):
        np.testing.assert_array_equal(labels, labels_again)
        assert all(torch.equal(a, b) for a, b in zip(columns, columns_again, strict=True))
    for name, values in whole.table.state().items():
        np.testing.assert_array_equal(values, again.table.state()[name])


@pytest.mark.parametrize("change", [{"per_query": 3}, {"texts": 31}, {"relative": True}])
def test_a_checkpoint_of_other_settings_is_refused(base, tmp_path, change):
    """Not with a traceback in the middle of loading."""
    model = sentence_transformers.SentenceTransformer(str(base), device="cpu")
    state = SimpleNamespace(global_step=4, is_world_process_zero=True)
    arguments = SimpleNamespace(output_dir=tmp_path / "run")

    def make(*, per_query=PER_QUERY, texts=30, relative=False):
        rule = EAGER.model_copy(update={"subtract_background": relative})
        return HardNegatives(
            model,
            pairs(),
            per_query=per_query,
            corpus=some_texts(texts, 3),
            replacement=rule,
            mining=MINING,
            cache=tmp_path / "cache",
        )

    hard = make()
    hard.on_save(arguments, state, None)
    file = hard._file(arguments, state)
    make()._load(file)
    with pytest.raises(UserError, match="made for other texts or settings"):
        make(**change)._load(file)


def test_the_sampler_without_duplicates_and_a_second_data_set_beside_it(base, tmp_path):
    model = sentence_transformers.SentenceTransformer(str(base), device="cpu")
    hard = HardNegatives(
        model,
        pairs(),
        per_query=2,
        corpus=some_texts(30, 3),
        replacement=EAGER,
        mining=MINING,
        cache=tmp_path,
    )
    graded = datasets.Dataset.from_dict(
        {"a": some_texts(16, 5), "b": some_texts(16, 6), "score": [0.5, 1.0] * 8}
    )
    trainer = sentence_transformers.SentenceTransformerTrainer(
        model,
        sentence_transformers.SentenceTransformerTrainingArguments(
            str(tmp_path / "run"),
            per_device_train_batch_size=BATCH,
            max_steps=24,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            batch_sampler="no_duplicates",
            gradient_accumulation_steps=2,
            learning_rate=3e-3,
        ),
        train_dataset={"pairs": hard.dataset, "graded": graded},
        loss={
            "pairs": MultipleNegativesRankingLoss(model),
            "graded": CoSENTLoss(model),
        },
    )
    hard.watch(trainer)
    trainer.train()
    assert sum(line["negatives/replaced"] for line in logged(trainer)) > 0


def test_known_positives_are_never_mined_and_the_bound_holds(base, tmp_path):
    texts = some_texts(QUERIES, 2)
    # Every anchor twice, with two positives: neither is a negative of either row.
    both = datasets.Dataset.from_dict({"q": some_texts(8, 1) * 2, "d": texts})
    model = sentence_transformers.SentenceTransformer(str(base), device="cpu")
    settings = MINING.model_copy(update={"max_positive_ratio": 0.99, "offset": 0})
    hard = HardNegatives(
        model,
        both,
        per_query=1,
        corpus=some_texts(60, 3),
        mining=settings,
        columns=("q", "d"),
        cache=tmp_path,
    )
    assert 0 < len(hard.dataset) < 16  # some have nothing below their bound, and are left out
    vector = {text: model.encode(text, normalize_embeddings=True) for text in both["q"][:] + texts}
    for row in hard.dataset:
        mined, place = row["negative_1"], row["label"][1]
        positives = {texts[place % 8], texts[place % 8 + 8]}
        assert row["q"] == both["q"][place] and row["d"] in positives and mined not in positives
        best = max(float(vector[row["q"]] @ vector[text]) for text in positives)
        assert float(vector[row["q"]] @ model.encode(mined, normalize_embeddings=True)) < 0.99 * best + 1e-5


def test_mistakes_are_named(base, tmp_path):
    model = sentence_transformers.SentenceTransformer(str(base), device="cpu")

    def message(data, **settings):
        with pytest.raises(UserError) as caught:
            HardNegatives(model, data, **({"mining": MINING, "cache": tmp_path} | settings))
        return str(caught.value)

    assert "no column 'positive' (did you mean 'positives'?); found anchor, positives." in message(
        pairs().rename_column("positive", "positives")
    )
    assert "column 'positive' holds" in message(
        datasets.Dataset.from_dict({"anchor": ["a"], "positive": [["b", "c"]]})
    )
    assert "pairs: column 'anchor': row 1 is null; expected a text." in message(
        datasets.Dataset.from_dict({"anchor": ["a", None], "positive": ["b", "c"]})
    )
    assert "pairs: column 'positive': row 1 is a text with nothing to read" in message(
        datasets.Dataset.from_dict({"anchor": ["a", "b"], "positive": ["b", " \u200b"]})
    )
    assert "corpus: row 1 is null; expected a text." in message(pairs(), corpus=["a", None])
    assert "per_query: 20 negatives were asked for" in message(pairs(), per_query=20)
    assert "replacement.source: bank" in message(pairs(), replacement=Replacement(source="bank"))


def test_what_keeps_negatives_in_place_is_told_before_the_first_step(base, tmp_path, capsys):
    train(base, tmp_path / "long", steps=2, replacement=EAGER.model_copy(update={"interval": 1000}))
    printed = capsys.readouterr().err
    assert (
        "negatives: no negatives will be replaced: the first check comes after step 1,000, and the run has 2"
        in (printed)
    )
    assert "a smaller replacement.interval" in printed and "hard_negatives" not in printed
    low = Replacement(source="ranking", interval=1, decay=1000.0)  # no score falls so far
    hard, _ = train(base, tmp_path / "low", steps=2, replacement=low)
    printed = capsys.readouterr().err
    assert f"unrelated texts, whose mean cosine is {hard.table.background:.2f}" in printed


@pytest.mark.parametrize("rule", ["each", "share"])
def test_negatives_are_replaced_by_themselves(base, tmp_path, rule, capsys):
    """Judged at every step; the log and one line a check say what was replaced; none stands twice in a row."""
    settings = {"each": {"decay": 0.985, "max_score": 1.0, "too_easy": None}, "share": {"min_share": 0.55}}
    replacement = Replacement(source="remine", rule=rule, interval=1, **settings[rule])
    hard, trainer = train(base, tmp_path / "run", replacement=replacement)
    lines = logged(trainer)
    assert len(lines) == 24
    replaced = sum(line["negatives/replaced_negatives"] for line in lines)
    assert 0 < replaced < PER_QUERY * sum(line["negatives/observed"] + BATCH for line in lines)
    assert any(line["negatives/replaced_negatives"] == 1 for line in lines)
    in_use = hard.table.in_use(np.arange(QUERIES))
    assert all(len(set(row)) == PER_QUERY for row in in_use.tolist())
    printed = capsys.readouterr()
    assert "negatives: step " in printed.out + printed.err


def test_no_negative_of_a_batch_is_the_positive_of_another_row(base, tmp_path):
    """Every passage is a positive here, so that without a look at the batch many would be."""
    model = sentence_transformers.SentenceTransformer(str(base), device="cpu")
    hard = HardNegatives(model, pairs(), per_query=3, mining=Mining(depth=24, offset=0), cache=tmp_path)
    collate = WithoutFalseNegatives(list, hard._add, hard.data.known_positives(hard.store))
    moved = 0
    for start in range(0, QUERIES, 8):
        features = hard.dataset[start : start + 8]
        features = [dict(zip(features, row, strict=True)) for row in zip(*features.values(), strict=True)]
        before = np.array([each["label"] for each in features])
        after = collate(features)
        labels = np.array([each["label"] for each in after])
        assert positives_of_others(hard, before)
        assert not positives_of_others(hard, labels)
        for old, new, each in zip(before, labels, after, strict=True):
            assert [each[f"negative_{slot}"] for slot in (1, 2, 3)] == [
                hard.store.text(int(x)) for x in new[3:]
            ]
            assert len(set(new[3:])) == 3
            assert (new[2] == OUT_OF_PLACE) == (old[3:] != new[3:]).any()
            moved += new[2] == OUT_OF_PLACE
            ranking = hard.table.ranking_QK[new[1]].tolist()
            assert [ranking.index(x) for x in new[3:]] >= [ranking.index(x) for x in old[3:]]
    assert moved


def test_workers_can_be_spawned(base, tmp_path):
    """What a loader sends to them goes through a pickle and reads the same, negatives in shared memory included."""
    hard, trainer = train(base, tmp_path / "run", steps=7)
    from multiprocessing.reduction import ForkingPickler

    dataset, collate = pickle.loads(bytes(ForkingPickler.dumps((hard.dataset, trainer.data_collator))))
    here, there = (c([d[1], d[2]]) for c, d in ((trainer.data_collator, hard.dataset), (collate, dataset)))
    assert here.keys() == there.keys()
    for name, value in here.items():
        assert torch.equal(value, there[name]) if isinstance(value, torch.Tensor) else value == there[name]


def train_in_a_world(base, folder, source, rule):
    """What one process of a trainer's group does; every one writes its table."""
    replacement = EAGER.model_copy(
        update={"source": source, "rule": rule, "interval": 1, "too_easy": None, "min_share": 0.55}
    )
    hard, trainer = train(
        base, folder / "run", steps=10, replacement=replacement, cache=f"cache-{os.getpid()}"
    )
    lines = [(line["negatives/flagged"], line["negatives/observed"]) for line in logged(trainer)]
    rank = torch.distributed.get_rank()
    torch.save((hard.table.state(), lines), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("source", "rule"), [("remine", "mean"), ("ranking", "each"), ("remine", "share")])
def test_processes_of_a_trainer_hold_one_table(base, tmp_path, source, rule):
    """Also where fewer queries are flagged than there are processes, and one has nothing to embed."""
    assert start_world(2, train_in_a_world, base, tmp_path, source, rule) == [0, 0]
    (first, lines), (second, _) = (torch.load(tmp_path / f"{n}.pt", weights_only=False) for n in range(2))
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
    assert first["replacements_Q"].sum() > 0
    assert all(observed <= 2 * BATCH for _, observed in lines)  # each batch counted once
    if rule == "share":
        assert any(flagged == 1 for flagged, _ in lines)


def test_scores_are_the_same_however_many_processes_share_a_batch(base, tmp_path, monkeypatch):
    """Counted from the background of all queries of the step, not of those of one process."""
    rule = EAGER.model_copy(update={"subtract_background": True})
    model = sentence_transformers.SentenceTransformer(str(base), device="cpu")
    draw, tables = np.random.default_rng(0), []
    labels = np.stack([np.full(12, 7), np.arange(12), *np.zeros((1 + PER_QUERY, 12), int)], axis=1)
    score, share = draw.random((2, 12, PER_QUERY)).astype(np.float32)
    vectors = draw.normal(size=(2, 12, 16)).astype(np.float32)
    for processes in (1, 2, 4):
        hard = hard_negatives(model, rule, tmp_path)
        seen = [[] for _ in range(processes)]
        for step in (slice(0, 4), slice(4, 12)):
            for process, rows in enumerate(np.split(np.arange(12)[step], processes)):
                batch = SeenBatch(labels[rows], score[rows], share[rows], vectors[:, rows].sum(axis=1))
                seen[process].append(batch)
        monkeypatch.setattr(collectives, "all_gather_object", lambda _, seen=seen: seen)
        hard._observe()
        monkeypatch.undo()
        tables.append(hard.table.state())
    for other in tables[1:]:
        for name, values in tables[0].items():
            np.testing.assert_allclose(other[name], values, rtol=1e-5, atol=1e-6)
    assert np.isfinite(tables[0]["current_QN"]).sum() == 12 * PER_QUERY


def train_apart(base, folder):
    """Processes of a group whose trainers do not know of each other."""
    collectives.start("cpu")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
    try:
        train(base, folder / "run", steps=2, cache=f"cache-{os.getpid()}")
    except UserError as error:
        (folder / f"{collectives.rank()}.txt").write_text(str(error))
    collectives.stop()


def test_a_group_whose_processes_train_on_all_of_the_data_is_refused(base, tmp_path):
    assert start_world(2, train_apart, base, tmp_path) == [0, 0]
    for rank in range(2):
        assert "the trainer runs as 1 process, but 2 were started" in (tmp_path / f"{rank}.txt").read_text()
