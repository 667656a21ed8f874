"""LoRA: the adapted encoder packs as the stock one does, and is saved merged or as an adapter with the same vectors."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conan_embed.encoder.adapter import add_lora, frozen_identity, merged_weights, target_layers
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.recipes.sections import Lora
from tests.encoder.families import PACKABLE, random_encoder
from tests.encoder.published import embedding_gemma, qwen3_embedding
from tests.encoder.test_self_test import LENGTHS, make, one_by_one, random_texts
from tests.tiny_models import FAMILIES, SENTENCES, make_tiny_model, tiny_encoder

pytest.importorskip("peft")
DECODERS = ("llama", "qwen3", "mistral-sliding", "gemma3", "gemma3-bidirectional", "gpt2")
KINDS = {
    "plain": Lora(rank=4),
    "rslora": Lora(rank=4, alpha=3, rslora=True),
    "dora": Lora(rank=2, dora=True),
    "attention": Lora(rank=3, targets="attention"),
}


def encoder_of(family):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tiny_encoder(family) if family in FAMILIES else random_encoder(*PACKABLE[family])


def adapt(model, settings, base="base"):
    """Add an adapter that changes the outcome: B is zero in a new one."""
    torch.manual_seed(1)
    add_lora(model, settings, str(base))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return model


@pytest.mark.parametrize("kind", ["plain", "dora"])
@pytest.mark.parametrize("family", [*FAMILIES, *DECODERS])
def test_packed_equals_stock_gradients_included(family, kind):
    encoder = encoder_of(family)
    before = make(copy.deepcopy(encoder)).embed_tokens(*random_texts(), np.arange(len(LENGTHS)))
    model = adapt(make(encoder), KINDS[kind])
    stock = copy.deepcopy(model.encoder)
    stock.set_attn_implementation("eager")
    tokens, offsets = random_texts()
    found = model.embed_tokens(tokens, offsets, np.arange(len(LENGTHS)), token_budget=60)
    expected = one_by_one(stock, tokens, offsets, "mean")
    assert (expected - before).norm() > 0.01 * before.norm()  # the adapter does something
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for embeddings in (found, expected):
        weight = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(1))
        (embeddings * weight).sum().backward()
    gradients = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    assert gradients and all("lora_" in name for name in gradients)
    largest = max(gradient.norm() for gradient in gradients.values())
    for name, gradient in gradients.items():
        difference = (model.encoder.get_parameter(name).grad - gradient).norm()
        assert difference <= 1e-4 * gradient.norm() + 1e-5 * largest, name


@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_are_the_papers(kind):
    """Float64, by hand: W + scale B A; DoRA gives each row the length that it has learned."""
    settings = KINDS[kind]
    model = adapt(make(encoder_of("llama")), settings).double()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    merged = merged_weights(model.encoder)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    plain = encoder_of("llama")
    assert merged.keys() == plain.state_dict().keys()
    changed = {
        name for name, weight in plain.state_dict().items() if not torch.equal(weight.double(), merged[name])
    }
    parts = {name.split(".")[-2] for name in changed}
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert parts == (attention if kind == "attention" else attention | {"gate_proj", "up_proj", "down_proj"})
    alpha = settings.alpha or 2 * settings.rank
    scale = alpha / (settings.rank**0.5 if settings.rslora else settings.rank)
    for name in changed:
        layer = model.encoder.get_submodule(name.removesuffix(".weight"))
        a, b = (part["default"].weight for part in (layer.lora_A, layer.lora_B))
        expected = layer.base_layer.weight + scale * b @ a
        if settings.dora:
            length = layer.lora_magnitude_vector["default"].weight
            expected = length[:, None] * expected / expected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(merged[name], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make_base", [qwen3_embedding, embedding_gemma, "bert", "gpt2"])
def test_saved_merged_or_as_an_adapter_the_vectors_are_the_same(make_base, tmp_path, recwarn):
    library = pytest.importorskip("sentence_transformers")
    base = tmp_path / "base"
    if callable(make_base):
        make_base(base)
    elif make_base == "bert":
        make_tiny_model("bert", dense_width=12).save(base)
    else:
        make(encoder_of(make_base)).save(base)
    model = adapt(EmbeddingModel.load(base), Lora(rank=4), base).eval()
    expected = model.encode(SENTENCES, prompt=model.prompts["query"], precision="float32")
    unadapted = EmbeddingModel.load(base).encode(
        SENTENCES, prompt=model.prompts["query"], precision="float32"
    )
    assert np.abs(expected - unadapted).max() > 1e-3
    for save_as in ("merged", "adapter"):
        model.adapter = type(model.adapter)(model.adapter.config, save_as)
        folder = tmp_path / save_as
        model.save(folder)
        again = EmbeddingModel.load(folder)
        assert again.prompts == model.prompts and again.pooling == model.pooling
        found = again.encode(SENTENCES, prompt=model.prompts["query"], precision="float32")
        np.testing.assert_allclose(found, expected, atol=2e-6)
        client = library.SentenceTransformer(str(folder), device="cpu")
        theirs = client.encode(list(SENTENCES), prompt_name="query", normalize_embeddings=True)
        np.testing.assert_allclose(theirs, expected, atol=2e-6)
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    assert all("lora_" in name for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    said = [str(warning.message) for warning in recwarn]
    assert not [text for text in said if "adapter keys" in text or "exclude_modules" in text]


@pytest.mark.parametrize(
    ("make_base", "other"), [(qwen3_embedding, "bidirectional"), (embedding_gemma, "causal")]
)
def test_a_direction_that_the_base_does_not_have_is_saved_merged_alone(make_base, other, tmp_path):
    """Clients of an adapter read the config of its base, and would attend in that direction."""
    library = pytest.importorskip("sentence_transformers")
    make_base(tmp_path / "base")
    own = {"bidirectional": "causal", "causal": "bidirectional"}[other]
    adapt(EmbeddingModel.load(tmp_path / "base", attention=own), Lora(rank=2, save="adapter"))
    model = EmbeddingModel.load(tmp_path / "base", attention=other)
    with pytest.raises(
        UserError, match=f"lora.save: found adapter, expected merged: .*model.attention: {other}"
    ):
        adapt(model, Lora(rank=2, save="adapter"))
    adapt(model, Lora(rank=2)).save(tmp_path / "turned")
    # A base that says its direction itself may have an adapter.
    model = EmbeddingModel.load(tmp_path / "turned", attention=other)
    adapt(model, Lora(rank=2, save="adapter"), tmp_path / "turned").save(tmp_path / "adapter")
    prompt = model.prompts["query"]
    expected = model.encode(SENTENCES, prompt=prompt, precision="float32")
    found = EmbeddingModel.load(tmp_path / "adapter").encode(SENTENCES, prompt=prompt, precision="float32")
    np.testing.assert_allclose(found, expected, atol=2e-6)
    client = library.SentenceTransformer(str(tmp_path / "adapter"), device="cpu")
    theirs = client.encode(list(SENTENCES), prompt_name="query", normalize_embeddings=True)
    np.testing.assert_allclose(theirs, expected, atol=2e-6)


def test_an_adapter_finds_its_base_from_any_working_directory(tmp_path, monkeypatch):
    make_tiny_model("bert").save(tmp_path / "here/base")
    monkeypatch.chdir(tmp_path / "here")
    model = adapt(EmbeddingModel.load("base"), Lora(rank=2, save="adapter"), "base").eval()
    model.save("adapter")
    expected = model.encode(SENTENCES, precision="float32")
    monkeypatch.chdir(tmp_path)
    found = EmbeddingModel.load("here/adapter").encode(SENTENCES, precision="float32")
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert adapt(
        EmbeddingModel.load("here/base"), Lora(rank=2), "Owner/model"
    ).adapter.config.base_model_name_or_path == ("Owner/model")


def test_an_adapter_on_an_adapter_is_saved_merged_alone(tmp_path):
    qwen3_embedding(tmp_path / "base")
    settings = Lora(rank=2, save="adapter")
    adapt(EmbeddingModel.load(tmp_path / "base"), settings, tmp_path / "base").save(tmp_path / "first")
    again = EmbeddingModel.load(tmp_path / "first")
    with pytest.raises(
        UserError, match=r"found adapter, expected merged: the base .*first is an adapter itself"
    ):
        adapt(again, settings, tmp_path / "first")
    adapt(again, Lora(rank=2), tmp_path / "first").save(tmp_path / "second")
    expected = again.encode(SENTENCES, precision="float32")
    found = EmbeddingModel.load(tmp_path / "second").encode(SENTENCES, precision="float32")
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.fixture
def saved_adapter(tmp_path):
    """A function that renames the weights of a saved adapter (None: leaves them out); its embeddings as they were."""
    make_tiny_model("bert").save(tmp_path / "base")
    model = adapt(EmbeddingModel.load(tmp_path / "base"), Lora(rank=2, save="adapter"), tmp_path / "base")
    model.save(tmp_path / "model")
    path = tmp_path / "model" / "adapter_model.safetensors"
    weights = load_file(path)

    def rename(change):
        renamed = {change(name): weight for name, weight in weights.items()}
        save_file({name: weight for name, weight in renamed.items() if name is not None}, path)
        return tmp_path / "model", model.encode(SENTENCES, precision="float32")

    return rename


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda name: name.replace("encoder.layer", "layers"),
            "24 of its weights are unknown, for instance base_model.model.layers.0",
        ),
        (
            lambda name: name.replace("model.encoder", "model.model.encoder"),
            r"are unknown, for instance base_model.model.model.encoder",
        ),
        (lambda name: name.removeprefix("base_model.model."), "are unknown, for instance encoder"),
        (
            lambda name: None if "layer.1.output" in name else name,
            "2 of its weights are missing, for instance base_model.model.encoder.layer.1.output",
        ),
        (lambda name: None, "24 of its weights are missing"),
    ],
)
def test_an_adapter_that_does_not_fit_its_base_is_refused(saved_adapter, change, words):
    """peft warns, and leaves the base as it is."""
    folder, _ = saved_adapter(change)
    with pytest.raises(
        UserError, match=rf"adapter_model.safetensors: the adapter does not fit its base: .*{words}"
    ):
        EmbeddingModel.load(folder)


def test_an_adapter_of_the_model_with_a_head_is_loaded(saved_adapter):
    """Trained on AutoModelForMaskedLM or AutoModelForCausalLM: the encoder's own name is in front."""
    folder, expected = saved_adapter(lambda name: name.replace("model.encoder", "model.bert.encoder"))
    found = EmbeddingModel.load(folder).encode(SENTENCES, precision="float32")
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_encoding_in_blocks_goes_through_the_adapter():
    """Mining and banks embed many chunks at once, with prepacked weights where the processor has them."""
    model = adapt(make(encoder_of("bert")), Lora(rank=4))
    merged = make(encoder_of("bert"))
    merged.encoder.load_state_dict(merged_weights(model.encoder))
    for precision, atol in (("float32", 1e-5), ("bfloat16", 2e-2)):
        found, expected = (m.encode(SENTENCES, precision=precision, token_budget=40) for m in (model, merged))
        np.testing.assert_allclose(found, expected, atol=atol)


def test_targets():
    encoder = encoder_of("bert")
    assert target_layers(encoder, "all") == ["dense", "key", "query", "value"]
    attention = target_layers(encoder, "attention")
    assert len(attention) == 4 * 2 and all("attention" in name for name in attention)
    assert target_layers(encoder_of("gpt2"), "attention") == sorted(
        f"h.{i}.attn.{name}" for i in range(3) for name in ("c_attn", "c_proj")
    )
    assert target_layers(encoder, ["query", "value"]) == ["query", "value"]
    with pytest.raises(
        UserError, match=r"found 'q_proj', expected names of linear layers: dense, key, query"
    ):
        target_layers(encoder, ["q_proj"])


def test_the_identity_of_the_frozen_weights():
    assert frozen_identity(make_tiny_model("bert")) == {}
    one, two = (adapt(make_tiny_model("bert", dense_width=8), Lora(rank=2)) for _ in range(2))
    with torch.no_grad():
        two.dense.weight.add_(1.0)  # trained: in the checkpoint
    assert frozen_identity(one) == frozen_identity(two)
    with torch.no_grad():
        two.encoder.embeddings.word_embeddings.weight[7, 0] += 1e-6
    assert frozen_identity(one) != frozen_identity(two)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported; expected 'LORA'"),
        ({"peft_type": "LORA"}, r"expected the adapter's weights in adapter_model.safetensors"),
    ],
)
def test_adapters_of_other_kinds_are_refused(config, words, tmp_path):
    make_tiny_model("bert").save(tmp_path / "model")
    (tmp_path / "model" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=words):
        EmbeddingModel.load(tmp_path / "model")
