"""Loading: what a folder says beside its weights is honoured, or refused by name, and kept when it is saved."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from tests.tiny_models import SENTENCES, make_tiny_model


@pytest.fixture
def folder(tmp_path):
    """A saved model, as one that others published."""
    make_tiny_model("bert", max_length=20, dense_width=24).save(tmp_path / "model")
    (tmp_path / "model" / "conan_embed.json").unlink()
    return tmp_path / "model"


def change(path, **values):
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))


def refused(folder, words, **settings):
    with pytest.raises(UserError, match=words):
        EmbeddingModel.load(folder, **settings)


# ------------------------------------------------------------------------------------------- weights and their code


@pytest.mark.parametrize("pickled", ["pytorch_model.bin", "2_Dense/pytorch_model.bin"])
def test_pickles_are_refused_and_the_command_converts_them(folder, tmp_path, pickled, monkeypatch):
    library = pytest.importorskip("sentence_transformers")
    expected = EmbeddingModel.load(folder).encode(SENTENCES, precision="float32")
    weights = folder / pickled.replace("pytorch_model.bin", "model.safetensors")
    torch.save(load_file(weights), folder / pickled)
    weights.unlink()
    with pytest.raises(
        UserError, match=r"found only the pickled pytorch_model.bin.*a pickle can run code"
    ) as error:
        EmbeddingModel.load(folder)
    command = str(error.value).split('python -c "')[1].removesuffix('"')
    monkeypatch.chdir(tmp_path)
    assert library
    exec(command)
    found = EmbeddingModel.load(tmp_path / "model-safetensors").encode(SENTENCES, precision="float32")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        (
            "config.json",
            {"auto_map": {"AutoModel": "modeling_x.X"}},
            "code of its own .auto_map.*trust_remote_code",
        ),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["x.X", None]}},
            "code of its own .auto_map",
        ),
        (
            "config.json",
            {"quantization_config": {"quant_method": "gptq"}},
            "quantization_config is not supported",
        ),
        ("adapter_config.json", {"peft_type": "LORA"}, "expected the adapter.s weights"),
        ("config.json", {"position_embedding_type": "alibi"}, "'alibi', which BertModel ignores"),
    ],
)
def test_what_stock_code_would_pass_over_is_refused(folder, file, values, words):
    change(folder / file, **values)
    refused(folder, words)


SETTINGS = "config_sentence_transformers.json"


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        (
            "sentence_bert_config.json",
            {"max_seq_length": 0},
            "max_seq_length: found 0, expected a number of tokens",
        ),
        ("sentence_bert_config.json", {"max_seq_length": "512"}, "max_seq_length: found '512', expected"),
        (
            SETTINGS,
            {"similarity_fn_name": "max_sim"},
            "found 'max_sim', expected one of cosine, dot, euclidean",
        ),
        (SETTINGS, {"prompts": {"query": ["ask: "]}}, "expected an object of texts by their names"),
        (
            SETTINGS,
            {"prompts": "ask: "},
            "prompts: found 'ask: ', expected an object of texts by their names",
        ),
        (SETTINGS, {"truncate_dim": 8}, "truncate_dim is not supported; expected Matryoshka widths"),
        ("1_Pooling/config.json", {"top_k": 3}, "unknown key 'top_k'"),
        ("2_Dense/config.json", {"dropout": 0.1}, "unknown key 'dropout'"),
        ("2_Dense/config.json", {"out_features": 99}, "expected those of a linear layer, {'weight': .99, 32"),
        (
            "3_Normalize/config.json",
            {"module_input_name": "token_embeddings"},
            "'token_embeddings' is not supported",
        ),
        ("config.json", {"matryoshka_dimensions": "8,16"}, "found '8,16', expected a list of widths"),
        ("conan_embed.json", {"widths": [8.5]}, "found .8.5., expected a list of widths"),
    ],
)
def test_settings_that_are_no_settings_are_refused_with_what_was_found(folder, file, values, words):
    change(folder / file, **values)
    refused(folder, words)


@pytest.mark.parametrize(
    "file",
    ["config.json", "tokenizer_config.json", "sentence_bert_config.json", SETTINGS, "1_Pooling/config.json"],
)
def test_a_list_for_an_object_is_refused_by_name(folder, file):
    (folder / file).write_text("[]")
    refused(folder, f"{file}: found a list, expected a JSON object")


@pytest.mark.parametrize(
    "modules", [{}, ["Transformer"], [{"type": "sentence_transformers.models.Transformer"}]]
)
def test_modules_without_type_and_path_are_refused(folder, modules):
    (folder / "modules.json").write_text(json.dumps(modules))
    refused(folder, "modules.json: expected a list of modules, each with its type and path")


def test_a_key_that_nobody_knows_is_told(folder, capsys):
    change(folder / SETTINGS, colour="red")
    EmbeddingModel.load(folder)
    assert "the keys colour are not known and have no effect" in capsys.readouterr().err


def a_nan(tensors):
    tensors["linear.bias"][3] = float("nan")


def another_input(tensors):
    tensors["linear.weight"] = torch.zeros(24, 31)


@pytest.mark.parametrize(
    ("change_tensors", "words"),
    [
        (a_nan, "2_Dense/model.safetensors: the weights bias hold NaN or infinity"),
        (another_input, "expected those of a linear layer"),
        (lambda tensors: tensors.pop("linear.weight"), "found the tensors {'bias': .24,.}, expected those"),
        (lambda tensors: tensors.update(scale=torch.ones(1)), "expected those of a linear layer"),
    ],
)
def test_a_dense_layer_is_a_whole_linear_layer_of_finite_numbers(folder, change_tensors, words):
    file = folder / "2_Dense" / "model.safetensors"
    tensors = load_file(file)
    change_tensors(tensors)
    save_file(tensors, file)
    refused(folder, words)


def test_a_dense_layer_takes_what_the_encoder_gives(folder):
    save_file({"linear.weight": torch.zeros(24, 31)}, folder / "2_Dense" / "model.safetensors")
    change(folder / "2_Dense" / "config.json", in_features=31)
    refused(folder, "module 2 takes 31 numbers, but the one before it gives 32")


@pytest.mark.parametrize("kind", ["custom_st.Transformer", "pylate.models.Dense.Dense"])
def test_modules_of_other_code_are_refused_whatever_they_are_called(folder, kind):
    modules = json.loads((folder / "modules.json").read_text())
    modules[0 if "Transformer" in kind else 2]["type"] = kind
    (folder / "modules.json").write_text(json.dumps(modules))
    refused(folder, f"module '{kind}' is code of the model's own")


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2), (0, 2, 3)])
def test_modules_in_another_order_are_refused(folder, order):
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([modules[place] for place in order]))
    refused(folder, "modules in the order .*; expected Transformer, Pooling, any Dense, Normalize")


def test_weights_that_an_embedding_leaves_out_are_kept(tmp_path):
    import transformers

    base = make_tiny_model("bert")
    sizes = base.encoder.config.to_dict()
    with_pooler = transformers.BertModel(transformers.BertConfig(**sizes))
    with_pooler.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    model = EmbeddingModel.load(tmp_path / "base")
    assert not any("pooler" in name for name, _ in model.named_parameters())
    model.save(tmp_path / "copy")
    saved = load_file(tmp_path / "copy" / "model.safetensors")
    for name, tensor in with_pooler.pooler.state_dict().items():
        assert torch.equal(saved[f"pooler.{name}"], tensor)
    _, report = transformers.AutoModel.from_pretrained(tmp_path / "copy", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    # A base without the pooler's weights is saved without them: random ones are nobody's.
    save_file(
        {name: tensor for name, tensor in saved.items() if "pooler" not in name},
        tmp_path / "copy" / "model.safetensors",
        metadata={"format": "pt"},
    )
    EmbeddingModel.load(tmp_path / "copy").save(tmp_path / "without")
    assert not any("pooler" in name for name in load_file(tmp_path / "without" / "model.safetensors"))


# ------------------------------------------------------------------------------- the keys of the Transformer module


@pytest.mark.parametrize("name", ["roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"])
def test_the_length_in_a_file_of_an_older_name(folder, name):
    (folder / "sentence_bert_config.json").rename(folder / f"sentence_{name}_config.json")
    change(folder / f"sentence_{name}_config.json", max_seq_length=13)
    assert EmbeddingModel.load(folder).max_length == 13


def test_the_length_of_the_tokenizer_counts_where_nothing_else_does(folder):
    (folder / "sentence_bert_config.json").unlink()
    change(folder / "tokenizer_config.json", model_max_length=17)
    assert EmbeddingModel.load(folder).max_length == 17
    (folder / "modules.json").unlink()
    assert EmbeddingModel.load(folder).max_length == 17


def test_arguments_for_the_tokenizer_are_honoured_and_kept(folder, tmp_path):
    change(folder / "sentence_bert_config.json", tokenizer_args={"truncation_side": "left"}, max_seq_length=6)
    model = EmbeddingModel.load(folder)
    whole = EmbeddingModel.load(folder, max_length=100).tokenize([SENTENCES[7]])[0]
    assert model.tokenize([SENTENCES[7]])[0].tolist()[1:] == whole[-5:].tolist()
    model.save(tmp_path / "copy")
    assert (
        EmbeddingModel.load(tmp_path / "copy").tokenize([SENTENCES[7]])[0].tolist()[1:] == whole[-5:].tolist()
    )


def test_arguments_for_the_config_are_honoured_and_kept(folder, tmp_path):
    change(
        folder / "sentence_bert_config.json", config_args={"layer_norm_eps": 0.25, "trust_remote_code": True}
    )
    model = EmbeddingModel.load(folder)
    assert model.encoder.encoder.layer[0].output.LayerNorm.eps == 0.25
    model.save(tmp_path / "copy")
    assert EmbeddingModel.load(tmp_path / "copy").encoder.config.layer_norm_eps == 0.25


@pytest.mark.parametrize(
    "values",
    [
        {"transformer_task": "fill-mask"},
        {"query_length": 32},
        {"query_expansion": {"strategy": "mask"}},
        {"processing_kwargs": {"text": {"add_special_tokens": False}}},
        {"model_args": {"default_task": "retrieval.query"}},
        {"tokenizer_name_or_path": "another/one"},
        {"module_output_name": "scores"},
        {"modality_config": {"text": {"method": "get_text_features", "method_output_name": None}}},
        {"of_tomorrow": 1},
    ],
)
def test_other_keys_are_refused_by_name(folder, values):
    change(folder / "sentence_bert_config.json", **values)
    refused(folder, f"sentence_bert_config.json: .*{next(iter(values))}")


def test_harmless_keys_are_read_over(folder):
    before = EmbeddingModel.load(folder).encode(SENTENCES, precision="float32")
    change(
        folder / "sentence_bert_config.json",
        model_args={"torch_dtype": "bfloat16", "attn_implementation": "sdpa"},
        unpad_inputs=True,
        processing_kwargs={},
        modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    )
    np.testing.assert_array_equal(EmbeddingModel.load(folder).encode(SENTENCES, precision="float32"), before)


# ------------------------------------------------------------------------------------------------------- similarity


@pytest.mark.parametrize(
    ("similarity", "normalized", "told"),
    [
        ("dot", False, True),
        ("dot", True, False),
        ("euclidean", True, False),
        ("manhattan", True, True),
        (None, False, False),
    ],
)
def test_a_similarity_that_is_not_ours_is_told(folder, capsys, similarity, normalized, told):
    change(folder / "config_sentence_transformers.json", similarity_fn_name=similarity)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules if normalized else modules[:-1]))
    capsys.readouterr()
    EmbeddingModel.load(folder)
    assert (f"made for the similarity '{similarity}'" in capsys.readouterr().err) is told


# ----------------------------------------------------------------------------------------------------------- widths


def test_widths_survive_another_trainers_save(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    make_tiny_model("bert", dense_width=24, widths=[16, 8]).save(tmp_path / "ours")
    assert json.loads((tmp_path / "ours/config.json").read_text())["matryoshka_dimensions"] == [24, 16, 8]
    library.SentenceTransformer(str(tmp_path / "ours"), device="cpu").save(str(tmp_path / "theirs"))
    assert not (tmp_path / "theirs" / "conan_embed.json").exists()
    assert EmbeddingModel.load(tmp_path / "theirs").widths == (24, 16, 8)
    EmbeddingModel.load(tmp_path / "theirs", widths=[]).save(tmp_path / "whole")
    assert "matryoshka_dimensions" not in json.loads((tmp_path / "whole/config.json").read_text())


# ------------------------------------------------------------------------------------------------------- no numbers


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_embeddings_that_are_no_numbers_end_with_a_sentence(scale):
    model = make_tiny_model("bert", dense_width=8)
    model.dense.weight.data[0, 0] = scale  # as an overflow during training would leave it
    with pytest.raises(
        UserError, match=r"embeddings of 2 of 2 texts are not finite numbers, for instance of 'Yes.'"
    ):
        model.encode(["Yes.", "No."])


# ------------------------------------------------------------------------------------------- saving over a folder


@pytest.mark.parametrize("names", [["notes.txt"], ["config.json", "model.safetensors"], [".git/HEAD"]])
def test_saving_replaces_nothing_but_a_model(tmp_path, names):
    model = make_tiny_model("bert")
    for name in names:
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text("precious")
    with pytest.raises(UserError, match=r"mine: is there already and holds no modules\.json"):
        model.save(tmp_path / "mine")
    assert all((tmp_path / "mine" / name).read_text() == "precious" for name in names)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_saving_replaces_an_empty_folder_and_a_model_of_either_library(folder, tmp_path):
    model = make_tiny_model("bert", seed=4)
    (tmp_path / "empty").mkdir()
    for output in (
        tmp_path / "empty",
        folder,
    ):  # the fixture lacks conan_embed.json, as sentence-transformers' do
        model.save(output)
        model.save(output)
        found = EmbeddingModel.load(output).encode(SENTENCES, precision="float32")
        np.testing.assert_array_equal(found, model.encode(SENTENCES, precision="float32"))
