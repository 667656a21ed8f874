"""Runs that train an adapter: small checkpoints, resumption bit for bit, mining through it, the result served."""

import shutil

import numpy as np
import pytest
from safetensors.torch import load_file

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.export import export
from conan_embed.training.checkpoint import checkpoints
from conan_embed.training.run import train
from tests.encoder.published import embedding_gemma, qwen3_embedding
from tests.encoder.test_decoders import decoder_folder
from tests.export.test_folder import onnx_embeddings
from tests.support.small_runs import SHARD, assert_resumes_bit_for_bit, interrupt_at, killed, lines
from tests.tiny_models import SENTENCES

pytest.importorskip("peft")
LORA = {"rank": 3, "dropout": 0.2}
NEGATIVES = {"source": "bank", "refresh": 2, "interval": 2, "decay": 0.1, "max_score": 5.0}


def test_a_killed_run_with_an_adapter_resumes_bit_for_bit(recipe, base, monkeypatch):
    settings = {"model": {"lora": LORA}, "hard_negatives": NEGATIVES}
    whole = assert_resumes_bit_for_bit(recipe, settings, monkeypatch)
    held = load_file(checkpoints(whole / "checkpoints")[-1] / "model" / SHARD)
    assert {"dense.weight", "dense.bias"} < held.keys()
    assert all("lora_" in name or name.startswith("dense.") for name in held)
    assert sum(line["replaced"] for line in lines(whole, "negatives")) > 0
    assert not (whole / "model" / "adapter_config.json").exists()
    before, after = (EmbeddingModel.load(folder) for folder in (base / "model", whole / "model"))
    assert np.abs(before.encode(SENTENCES) - after.encode(SENTENCES)).max() > 1e-3


def test_a_checkpoint_goes_with_one_base(recipe, base, tmp_path, monkeypatch):
    shutil.copytree(base / "model", tmp_path / "model")
    settings = {"model": {"base": str(tmp_path / "model"), "lora": LORA}}
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(**settings))
    changed = EmbeddingModel.load(tmp_path / "model")
    changed.encoder.embeddings.LayerNorm.bias.data += 1e-3
    changed.save(tmp_path / "model")
    with pytest.raises(UserError, match=r"the data changed since: base model .frozen weights."):
        train(recipe(**settings))


def llama(folder):
    """A plain language model, whose tokenizer ends texts with nothing."""
    return decoder_folder(folder, "llama")


@pytest.mark.parametrize(
    ("make_base", "pooling"), [(qwen3_embedding, None), (embedding_gemma, None), (llama, "last")]
)
def test_a_decoder_through_the_whole_chain(make_base, pooling, recipe, base, tmp_path):
    """Train with an adapter, evaluate, load with sentence-transformers, export: the same vectors."""
    library = pytest.importorskip("sentence_transformers")
    make_base(tmp_path / "decoder")
    chosen = {"base": str(tmp_path / "decoder"), "pooling": pooling}
    for save in ("merged", "adapter"):
        settings = {
            "model": chosen | {"lora": LORA | {"save": save, "rslora": True}},
            "hard_negatives": NEGATIVES | {"source": "remine"},
            "evaluation": {"folder": str(base / "eval")},
        }
        model = EmbeddingModel.load(train(recipe(save, **settings)) / "model")
        ours = model.encode(SENTENCES, prompt=model.prompts["query"], precision="float32")
        client = library.SentenceTransformer(str(tmp_path / save / "model"), device="cpu")
        theirs = client.encode(list(SENTENCES), prompt_name="query", normalize_embeddings=True)
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
        unadapted = EmbeddingModel.load(tmp_path / "decoder", pooling=pooling)
        assert (
            np.abs(unadapted.encode(SENTENCES, prompt=model.prompts["query"]) - ours).max() > 1e-3
        )  # beyond rounding, 2e-6
    pytest.importorskip("onnxscript")
    exported = export(tmp_path / "adapter" / "model", tmp_path / "onnx", format="onnx")
    theirs = onnx_embeddings(exported, [model.prompts["query"] + text for text in SENTENCES])
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_run_on_a_base_in_4_bits_resumes_bit_for_bit(recipe, monkeypatch):
    pytest.importorskip("bitsandbytes")
    settings = {"model": {"lora": LORA | {"bits": 4}}, "hard_negatives": NEGATIVES}
    whole = assert_resumes_bit_for_bit(recipe, settings, monkeypatch)
    held = load_file(checkpoints(whole / "checkpoints")[-1] / "model" / SHARD)
    assert all("lora_" in name or name.startswith("dense.") for name in held)


@pytest.mark.parametrize(
    ("lora", "training", "words"),
    [
        ({"bits": 4, "dora": True}, {}, "bits: found 4 beside dora"),
        ({"bits": 4}, {"sharding": "full"}, "bits: found 4 beside training.sharding: full"),
    ],
)
def test_what_does_not_go_with_4_bits_is_refused(recipe, lora, training, words):
    with pytest.raises(ValueError, match=words):
        recipe(model={"lora": lora}, training=training)
