"""Folders: what we write and read back, what sentence-transformers reads and writes, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from conan_embed.encoder.formats import POOLINGS
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from tests.support.folders import change_json, refused
from tests.tiny_models import FAMILIES, POSITIONS, SENTENCES, make_tiny_model


def embeddings(model):
    return model.encode(SENTENCES, prompt=model.prompts["query"], precision="float32")


def test_a_plain_transformers_folder_is_read(tmp_path):
    model = make_tiny_model("roberta", prompts={})
    model.encoder.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    loaded = EmbeddingModel.load(tmp_path)
    assert (loaded.pooling, loaded.dense, loaded.max_length) == ("mean", None, POSITIONS)
    np.testing.assert_array_equal(embeddings(loaded), embeddings(model))


def test_a_new_dense_layer_and_new_settings(tmp_path):
    model = make_tiny_model("bert")
    model.save(tmp_path / "model")
    loaded = EmbeddingModel.load(
        tmp_path / "model", pooling="last", dense_width=48, widths=[16], prompts={"sts": "s"}, max_length=9
    )
    assert loaded.dense.weight.shape == (48, 32)
    assert (loaded.pooling, loaded.widths, loaded.max_length) == ("last", (48, 16), 9)
    assert loaded.prompts == {"query": "", "passage": "", "sts": "s"}


def test_dropout_is_set_everywhere_or_left(tmp_path):
    model = make_tiny_model("modernbert")
    model.encoder.config.attention_dropout = 0.25
    model.save(tmp_path / "model")

    def rates(**settings):
        loaded = EmbeddingModel.load(tmp_path / "model", **settings)
        modules = {m.p for m in loaded.modules() if isinstance(m, torch.nn.Dropout)}
        return modules | {loaded.encoder.layers[0].attn.attention_dropout}

    assert rates() == {0.0}
    assert rates(dropout=0.5) == {0.5}
    assert rates(dropout=None) == {0.0, 0.25}


def test_dropout_of_gpt2s_kin_is_set_too_and_saved_as_it_was(tmp_path):
    """Its three keys end in `pdrop`, and a config may write a whole number."""
    tokenizer = make_tiny_model("bert").tokenizer
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=130, vocab_size=len(tokenizer), attn_pdrop=1, embd_pdrop=0
    )
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    def rates(**settings):
        loaded = EmbeddingModel.load(tmp_path / "model", **settings)
        return {m.p for m in loaded.modules() if isinstance(m, torch.nn.Dropout)}

    assert rates() == {0.0}
    assert rates(dropout=0.5) == {0.5}
    assert rates(dropout=None) == {0, 0.1, 1}
    EmbeddingModel.load(tmp_path / "model").save(tmp_path / "copy")
    assert {
        name: value
        for name, value in json.loads((tmp_path / "copy/config.json").read_text()).items()
        if name.endswith("pdrop")
    } == {"attn_pdrop": 1, "embd_pdrop": 0, "resid_pdrop": 0.1}


# ------------------------------------------------------------------------------------------ sentence-transformers


@pytest.mark.parametrize("dense_width", [None, 24])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_sentence_transformers_reads_what_we_write_and_we_read_what_it_writes(
    family, pooling, dense_width, tmp_path
):
    library = pytest.importorskip("sentence_transformers")
    model = make_tiny_model(
        family,
        pooling=pooling,
        dense_width=dense_width,
        max_length=20,
        prompts={"query": "问：", "passage": "p "},
    )
    model.save(tmp_path / "ours")
    peer = library.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    assert peer.max_seq_length == 20
    for encode, role in ((peer.encode_query, "query"), (peer.encode_document, "passage")):
        expected = model.encode(SENTENCES, prompt=model.prompts[role], precision="float32")
        np.testing.assert_allclose(encode(list(SENTENCES)), expected, rtol=1e-4, atol=1e-5)
    peer.save(str(tmp_path / "theirs"))
    back = EmbeddingModel.load(tmp_path / "theirs")
    assert (back.pooling, back.max_length, back.width) == (pooling, 20, model.width)
    assert back.prompts == model.prompts
    np.testing.assert_allclose(embeddings(back), embeddings(model), rtol=1e-5, atol=1e-6)


def in_version_6_layout(folder):
    """Rewrite one of our folders as sentence-transformers 6 writes it."""
    modules = json.loads((folder / "modules.json").read_text())
    places = {"Transformer": "base", "Dense": "base", "Normalize": "base", "Pooling": "sentence_transformer"}
    for module in modules:
        kind = module["type"].rsplit(".", 1)[-1]
        module["type"] = f"sentence_transformers.{places[kind]}.modules.{kind.lower()}.{kind}"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"embedding_dimension": 32, "pooling_mode": "lasttoken", "include_prompt": True})
    )
    (folder / "sentence_bert_config.json").write_text(json.dumps({"transformer_task": "feature-extraction"}))
    change_json(folder / "tokenizer_config.json", model_max_length=20)


def test_the_layout_of_version_6_without_the_library(tmp_path):
    model = make_tiny_model("bert", pooling="last", dense_width=24, max_length=20)
    model.save(tmp_path / "model")
    in_version_6_layout(tmp_path / "model")
    loaded = EmbeddingModel.load(tmp_path / "model")
    assert (loaded.pooling, loaded.max_length) == ("last", 20)
    np.testing.assert_array_equal(embeddings(loaded), embeddings(model))


def test_the_layout_of_version_5(saved):
    """Its transformer folder may have a name, its poolings are one key each, its length may exceed the positions."""
    model, folder = saved
    inner = folder / "0_Transformer"
    inner.mkdir()
    for file in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "sentence_bert_config.json",
    ):
        shutil.move(folder / file, inner / file)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    loaded = EmbeddingModel.load(folder)
    np.testing.assert_array_equal(embeddings(loaded), embeddings(model))
    change_json(inner / "sentence_bert_config.json", max_seq_length=POSITIONS + 2)
    assert EmbeddingModel.load(folder).max_length == POSITIONS


def test_a_dense_layer_without_bias_has_none(saved):
    _, folder = saved
    weights = load_file(folder / "2_Dense" / "model.safetensors")
    save_file({"linear.weight": weights["linear.weight"]}, folder / "2_Dense" / "model.safetensors")
    loaded = EmbeddingModel.load(folder)
    assert not loaded.dense.bias.any()
    assert torch.equal(loaded.dense.weight, weights["linear.weight"])


def test_prompts_under_the_names_of_published_models(saved):
    _, folder = saved
    config = folder / "config_sentence_transformers.json"
    change_json(config, prompts={"query": "query: ", "document": "passage: "})
    assert EmbeddingModel.load(folder).prompts == {
        "query": "query: ",
        "passage": "passage: ",
        "sts": "query: ",
    }
    change_json(config, prompts={})
    assert EmbeddingModel.load(folder).prompts == {"query": "", "passage": "", "sts": ""}


# ------------------------------------------------------------------------------------------------------- refused


def test_no_model_at_all(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "neither modules.json nor config.json")
    refused(tmp_path / "missing", "no such folder")


def test_widths_beyond_the_model_are_refused(saved):
    refused_setting(saved[1], "model.widths: 25", "1 to 24", widths=[8, 25])


def test_a_length_beyond_the_positions_is_refused(saved):
    refused_setting(
        saved[1], f"model.max_length: {POSITIONS + 1}", f"3 to {POSITIONS}", max_length=POSITIONS + 1
    )


def test_positions_of_roberta_begin_after_its_padding(tmp_path):
    make_tiny_model("roberta").save(tmp_path / "model")
    assert EmbeddingModel.load(tmp_path / "model", max_length=POSITIONS).max_length == POSITIONS
    refused_setting(tmp_path / "model", f"3 to {POSITIONS}", max_length=POSITIONS + 1)


def test_another_dense_width_than_the_folders_is_refused(saved):
    refused_setting(saved[1], "model.dense_width: 48", "24", dense_width=48)


def test_an_unknown_pooling_and_an_unknown_prompt_are_refused(saved):
    refused_setting(saved[1], "'max'", "cls, mean, last", pooling="max")
    refused_setting(saved[1], "'pasage'", "did you mean 'passage'", prompts={"pasage": "x"})


def refused_setting(folder, *words, **settings):
    with pytest.raises(UserError) as error:
        EmbeddingModel.load(folder, **settings)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.Softmax"}, "Softmax"),
        ("2_Dense/config.json", {"use_residual": True}, "use_residual"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "cls and mean"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": False}, "none"),
    ],
)
def test_modules_that_do_something_else_are_refused(saved, file, values, words):
    change_json(saved[1] / file, **values)
    refused(saved[1], file, words)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("LSTM", "'LSTM'"), ("Dense", "Normalize, Dense; expected Transformer, Pooling, any Dense, Normalize")],
)
def test_more_modules_are_refused(saved, kind, words):
    path = saved[1] / "modules.json"
    modules = json.loads(path.read_text())
    modules.append({"idx": 4, "name": "4", "path": "2_Dense", "type": f"sentence_transformers.models.{kind}"})
    path.write_text(json.dumps(modules))
    refused(saved[1], words)


def test_an_encoder_with_its_own_attention_is_refused(tmp_path):
    import transformers

    config = transformers.MPNetConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32
    )
    transformers.MPNetModel(config).save_pretrained(tmp_path)
    make_tiny_model("roberta").tokenizer.save_pretrained(tmp_path)
    refused_setting(tmp_path, "MPNetModel", "AttentionInterface")
