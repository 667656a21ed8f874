"""A cross-encoder's scores: against the model, pair by pair."""

import json

import pytest
import torch
import transformers

from conan_embed.distillation.cross_encoder import CrossEncoder, pairs_to_score, score_pairs
from conan_embed.distillation.teacher import PairTeacher
from conan_embed.errors import UserError
from conan_embed.recipes.teaching import Teacher
from tests.tiny_models import make_tiny_model

CPU = torch.device("cpu")


def test_a_cross_encoder_scores_positives_and_first_ranks_once(step, cross_encoder, tmp_path, monkeypatch):
    tasks, table, plan = step
    settings = Teacher(
        kind="cross-encoder", model=str(cross_encoder), kl=1.0, depth=3, batch_size=4, precision="float32"
    )
    scores = score_pairs(settings, tasks, table, tmp_path, CPU)
    query, passage = pairs_to_score(tasks, table, 3)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(cross_encoder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(cross_encoder)
    content = tasks.store.content
    for q, p in list(zip(query, passage, strict=True))[:10]:
        batch = tokenizer(tasks.store.text(int(q)), tasks.store.text(int(p)), return_tensors="pt")
        with torch.no_grad():
            expected = model(**batch).logits.item()
        assert scores.of(content[[q]], content[[p]])[0] == pytest.approx(expected, abs=1e-4)
    asked = set(zip(query.tolist(), passage.tolist(), strict=True))
    first = 0
    for data in tasks.retrieval:
        for row, query_id in enumerate(data.query_Q.tolist()):
            assert {(query_id, p) for p in data.positives[data.list_Q[row]].tolist()} <= asked
            assert {(query_id, p) for p in table.ranking_QK[first + row, :3].tolist() if p >= 0} <= asked
        first += len(data)
    monkeypatch.setattr("conan_embed.distillation.cross_encoder._score", None)
    assert score_pairs(settings, tasks, table, tmp_path, CPU).identity() == scores.identity()
    said = PairTeacher(scores, margin=0.0).score(plan, CPU)
    row, column = plan.retrieval.relations.positives()
    assert not said.score_QC[row, column].isnan().any()


def test_texts_are_cut_where_the_models_positions_end(cross_encoder):
    """Also where the tokenizer's folder names no length."""
    path = cross_encoder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("model_max_length", None)
    path.write_text(json.dumps(settings))
    model = CrossEncoder(cross_encoder, CPU, key="teacher.model", precision="float32")
    positions = model.model.config.max_position_embeddings
    long = "weather " * 2 * positions
    assert model.tokenizer.model_max_length > positions == model.max_length
    assert torch.isfinite(model.score(["the weather", long], [long, long])).all()


def test_models_that_score_no_pairs_are_refused(step, cross_encoder, tmp_path):
    tasks, table, _ = step
    make_tiny_model("bert").save(tmp_path / "plain")
    path = cross_encoder / "config.json"
    for folder, words in ((tmp_path / "plain", "classifier"), (cross_encoder, "cannot be loaded|labels")):
        if folder == cross_encoder:
            config = json.loads(path.read_text())
            labels = {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
            path.write_text(json.dumps(config | labels))
        settings = Teacher(kind="cross-encoder", model=str(folder), kl=1.0)
        with pytest.raises(UserError, match=f"teacher.model: .*{words}"):
            score_pairs(settings, tasks, table, tmp_path, CPU)
