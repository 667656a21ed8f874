"""What text-embeddings-inference reads of a model folder, checked without it: a server in Rust that we cannot run here.

It reads JSON into typed records: where a key that it needs is missing or null, it does not start. The keys and types
below are those that its router (pooling, length, prompts) and its models ask for, earlier and later versions taken
together; weights are looked up by name and shape, with or without the model's own prefix.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from conan_embed.encoder.model import EmbeddingModel
from tests.encoder.families import PACKABLE, random_encoder
from tests.encoder.published import embedding_gemma, qwen3_embedding
from tests.tiny_models import FAMILIES, make_tiny_model, tiny_tokenizer

COUNT, NUMBER, FLAG, WORD = (int,), (int, float), (bool,), (str,)

OF_EVERY_MODEL = {
    "architectures": (list,),
    "model_type": WORD,
    "max_position_embeddings": COUNT,
    "pad_token_id": COUNT,
}
OF_BERT = {
    **dict.fromkeys(("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"), COUNT),
    **dict.fromkeys(("intermediate_size", "type_vocab_size"), COUNT),
    **dict.fromkeys(("hidden_dropout_prob", "initializer_range", "layer_norm_eps"), NUMBER),
    "hidden_act": WORD,
}
OF_FAMILY = {
    "bert": OF_BERT,
    "roberta": OF_BERT,
    "xlm-roberta": OF_BERT,
    "distilbert": {
        **dict.fromkeys(("vocab_size", "dim", "n_layers", "n_heads", "hidden_dim"), COUNT),
        "activation": WORD,
    },
    "modernbert": {
        **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"), COUNT),
        **dict.fromkeys(("num_attention_heads", "eos_token_id", "bos_token_id", "cls_token_id"), COUNT),
        **dict.fromkeys(("sep_token_id", "global_attn_every_n_layers", "local_attention"), COUNT),
        **dict.fromkeys(("initializer_range", "initializer_cutoff_factor", "norm_eps"), NUMBER),
        **dict.fromkeys(("global_rope_theta", "local_rope_theta", "attention_dropout"), NUMBER),
        **dict.fromkeys(("norm_bias", "attention_bias"), FLAG),
        **dict.fromkeys(("hidden_activation", "classifier_activation"), WORD),
    },
}
POOLING_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
FIRST_AND_LAST_WEIGHTS = {  # of two layers, 32 wide
    "bert": ("embeddings.token_type_embeddings.weight", "encoder.layer.1.output.LayerNorm.bias"),
    "roberta": ("embeddings.token_type_embeddings.weight", "encoder.layer.1.output.LayerNorm.bias"),
    "xlm-roberta": ("embeddings.token_type_embeddings.weight", "encoder.layer.1.output.LayerNorm.bias"),
    "distilbert": ("embeddings.position_embeddings.weight", "transformer.layer.1.output_layer_norm.bias"),
    "modernbert": ("embeddings.tok_embeddings.weight", "layers.1.mlp.Wo.weight"),
}


@pytest.fixture(params=FAMILIES)
def served(request, tmp_path):
    """A family, a saved model of it with a linear layer, and its folder."""
    model = make_tiny_model(
        request.param, pooling="mean", dense_width=24, max_length=20, prompts={"query": "问："}
    )
    model.save(tmp_path / "model")
    return request.param, model, tmp_path / "model"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_config_has_what_the_model_is_made_from(served):
    family, _, folder = served
    config = read(folder / "config.json")
    for key, kinds in {**OF_EVERY_MODEL, **OF_FAMILY[family]}.items():
        assert type(config.get(key)) in kinds, (key, config.get(key))
    assert config["model_type"] == family


def test_pooling_length_prompts_and_modules(served):
    _, model, folder = served
    pooling = read(folder / "1_Pooling" / "config.json")
    assert {mode for mode in POOLING_MODES if pooling[f"pooling_mode_{mode}"]} == {"mean_tokens"}
    assert pooling["pooling_mode_lasttoken"] is False
    assert read(folder / "sentence_bert_config.json")["max_seq_length"] == model.max_length
    prompts = read(folder / "config_sentence_transformers.json")["prompts"]
    assert prompts["query"] == "问：" and all(type(prompt) is str for prompt in prompts.values())
    modules = read(folder / "modules.json")
    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    assert [module["type"] for module in modules] == [
        f"sentence_transformers.models.{kind}" for kind in kinds
    ]
    assert all(type(module["idx"]) is int and type(module["name"]) is str for module in modules)


def test_weights_by_name_and_shape(served):
    family, model, folder = served
    weights = load_file(folder / "model.safetensors")
    assert set(FIRST_AND_LAST_WEIGHTS[family]) <= set(weights)
    dense = read(folder / "2_Dense" / "config.json")
    assert dense["activation_function"] == "torch.nn.modules.linear.Identity" and dense["bias"] is True
    layer = load_file(folder / "2_Dense" / "model.safetensors")
    assert layer["linear.weight"].shape == (dense["out_features"], dense["in_features"]) == (24, model.hidden)
    assert layer["linear.bias"].shape == (24,)


def test_the_tokenizer_alone_gives_our_tokens(served):
    """The server knows tokenizer.json only, special tokens included."""
    _, model, folder = served
    texts = ["今天天气很好。", "Read the file line by line."]
    tokens, offsets = model.tokenize(texts)
    alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
    alone.no_padding()
    alone.enable_truncation(model.max_length)
    for text, start, end in zip(texts, offsets[:-1], offsets[1:], strict=True):
        assert alone.encode(text).ids == tokens[start:end].tolist()


def test_what_modernbert_is_told_by_old_keys_is_what_it_does(tmp_path):
    model = make_tiny_model("modernbert", layers=5)
    model.encoder.config.rope_parameters["sliding_attention"]["rope_theta"] = 500.0
    model.save(tmp_path / "model")
    config = read(tmp_path / "model" / "config.json")
    told = [layer % config["global_attn_every_n_layers"] == 0 for layer in range(5)]
    assert told == [kind == "full_attention" for kind in config["layer_types"]]
    assert (config["global_rope_theta"], config["local_rope_theta"]) == (160_000.0, 500.0)
    again = EmbeddingModel.load(tmp_path / "model")
    assert again.encoder.config.rope_parameters == model.encoder.config.rope_parameters
    again.save(tmp_path / "again")
    assert read(tmp_path / "again" / "config.json") == config


def test_a_pattern_of_layers_that_old_keys_cannot_say_is_left_to_new_ones(tmp_path):
    model = make_tiny_model("modernbert", layers=3)
    model.encoder.config.layer_types = ["sliding_attention", "full_attention", "full_attention"]
    model.save(tmp_path / "model")
    config = read(tmp_path / "model" / "config.json")
    assert "global_attn_every_n_layers" not in config
    assert config["layer_types"] == model.encoder.config.layer_types


def test_old_keys_alone_make_the_same_model(tmp_path):
    """As transformers 4 reads the folder: it does not know the new ones."""
    model = make_tiny_model("modernbert", layers=4)
    model.save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = read(path)
    del config["layer_types"], config["rope_parameters"]
    path.write_text(json.dumps(config))
    texts = ["今天天气很好，我们去公园散步吧。", "Deep learning models need a lot of training data."]
    np.testing.assert_array_equal(
        EmbeddingModel.load(tmp_path / "model").encode(texts, precision="float32"),
        model.encode(texts, precision="float32"),
    )


@pytest.mark.parametrize("make", [qwen3_embedding, embedding_gemma])
def test_old_keys_alone_make_the_same_decoder(make, tmp_path):
    """As transformers 4 and text-embeddings-inference read the folder: they know no rope_parameters."""
    model = EmbeddingModel.load(make(tmp_path / "published"))
    model.save(tmp_path / "saved")
    config = read(tmp_path / "saved" / "config.json")
    published = read(tmp_path / "published" / "config.json")
    assert config["rope_theta"] == published["rope_theta"] == 1_000_000.0
    assert config.get("rope_local_base_freq") == published.get("rope_local_base_freq")
    if make is embedding_gemma:
        assert config["sliding_window_pattern"] == 3
        for key in ("layer_types", "_sliding_window_pattern"):
            del config[key]
    del config["rope_parameters"]
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    again = EmbeddingModel.load(tmp_path / "saved")
    assert again.encoder.config.rope_parameters == model.encoder.config.rope_parameters
    assert again.encoder.config.layer_types == model.encoder.config.layer_types
    texts = ["今天天气很好，我们去公园散步吧。", "Deep learning models need a lot of training data."]
    np.testing.assert_array_equal(*(m.encode(texts, precision="float32") for m in (again, model)))


def test_scaled_rotary_positions_in_old_keys(tmp_path):
    scaling = {"rope_type": "linear", "factor": 2.0}
    kind, arguments = PACKABLE["llama"]
    encoder = random_encoder(kind, arguments | {"rope_parameters": scaling | {"rope_theta": 5e5}})
    model = EmbeddingModel(encoder, tiny_tokenizer("modernbert"), max_length=40)
    model.save(tmp_path / "model")
    config = read(tmp_path / "model" / "config.json")
    assert (config["rope_theta"], config["rope_scaling"]) == (5e5, scaling)
    again = EmbeddingModel.load(tmp_path / "model")
    assert again.encoder.config.rope_parameters == encoder.config.rope_parameters


def test_the_tokenizer_keeps_nothing_of_how_the_base_was_loaded_and_called(tmp_path):
    # fastembed cuts at the smaller of model_max_length and max_length, which a base may have.
    make_tiny_model("bert").save(tmp_path / "base")
    path = tmp_path / "base" / "tokenizer_config.json"
    left = {"max_length": 5, "stride": 0, "truncation_strategy": "longest_first", "local_files_only": True}
    path.write_text(json.dumps({**read(path), **left}), encoding="utf-8")
    EmbeddingModel.load(tmp_path / "base", max_length=12).save(tmp_path / "saved")
    config = read(tmp_path / "saved" / "tokenizer_config.json")
    assert config["model_max_length"] == 12
    assert config.keys().isdisjoint({*left, "is_local", "name_or_path"})
    for file in (tmp_path / "saved").rglob("*.json"):
        assert str(tmp_path) not in file.read_text(encoding="utf-8"), file
