"""Decoders: published folders as they are, the direction of attention, the end token, prompts that are not pooled."""

import json

import numpy as np
import pytest
import torch
import transformers

from conan_embed.encoder.attention import stock_attention
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.texts.contents import contents_of, probes_of
from tests.encoder.families import PACKABLE, random_encoder
from tests.encoder.published import embedding_gemma, qwen3_embedding
from tests.tiny_models import SENTENCES, make_tiny_model, tiny_tokenizer

DECODERS = ("llama", "qwen2-sliding", "qwen3", "mistral-sliding", "gemma2-softcap", "gemma3", "gpt2")


def served(folder):
    library = pytest.importorskip("sentence_transformers")
    return library.SentenceTransformer(str(folder), device="cpu")


def assert_same_vectors(model, client, *, atol=2e-6):
    """For queries and documents, one by one (a batch without padding) and together."""
    for role, name in (("query", "query"), ("passage", "document")):
        ours = model.encode(SENTENCES, prompt=model.prompts[role], precision="float32")
        theirs = client.encode(list(SENTENCES), prompt_name=name, normalize_embeddings=True)
        np.testing.assert_allclose(ours, theirs, atol=atol)
        alone = client.encode([SENTENCES[0]], prompt_name=name, normalize_embeddings=True)
        np.testing.assert_allclose(ours[:1], alone, atol=atol)


def decoder_folder(path, kind):
    """A plain transformers folder; its tokenizer begins texts with <s> and ends them with nothing."""
    random_encoder(*PACKABLE[kind]).save_pretrained(path)
    backend = tiny_tokenizer("roberta").backend_tokenizer.to_str()
    state = json.loads(backend)
    state["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    (path / "raw.json").write_text(json.dumps(state))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path / "raw.json"), **names)
    fast.save_pretrained(path)
    (path / "raw.json").unlink()
    return path


# ------------------------------------------------------------------------------------------------ published folders


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("make", [qwen3_embedding, embedding_gemma])
def test_published_folders_load_unchanged_and_are_saved_for_sentence_transformers(
    make, include_prompt, tmp_path
):
    folder = make(tmp_path / "published", include_prompt=include_prompt)
    model = EmbeddingModel.load(folder)
    assert model.prompts["query"] and model.prompts["query"] != model.prompts["passage"]
    assert_same_vectors(model, served(folder))
    model.save(tmp_path / "ours")
    assert_same_vectors(model, served(tmp_path / "ours"))
    again = EmbeddingModel.load(tmp_path / "ours")
    assert (again.prompts, again.max_length) == (model.prompts, model.max_length)
    for role in ("query", "passage"):
        np.testing.assert_array_equal(
            *(m.encode(SENTENCES, prompt=model.prompts[role], precision="float32") for m in (again, model))
        )
    side = transformers.AutoTokenizer.from_pretrained(folder).padding_side
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "ours").padding_side == side


def test_what_the_layouts_are_is_what_is_read(tmp_path):
    qwen = EmbeddingModel.load(qwen3_embedding(tmp_path / "qwen"))
    assert (qwen.pooling, qwen.max_length, qwen.dense) == ("last", 512, None)
    assert qwen.tokenizer.padding_side == "left"
    tokens, _ = qwen.tokenize(["好"])
    assert qwen.tokenizer.convert_ids_to_tokens(int(tokens[-1])) == "<|endoftext|>"
    gemma = EmbeddingModel.load(embedding_gemma(tmp_path / "gemma"))
    assert (gemma.pooling, gemma.max_length, gemma.width) == ("mean", 2048, 24)
    assert [layer.out_features for layer in gemma.dense_layers()] == [96, 24]
    assert gemma.prompts["sts"] == "task: sentence similarity | query: "
    gemma.save(tmp_path / "copy")
    windows = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("gemma", "copy")]
    assert windows[0]["sliding_window"] == windows[1]["sliding_window"]


# ----------------------------------------------------------------------------------------- prompts that do not count


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_prompts_that_are_not_pooled(pooling):
    """Against plain loops: every token attends to the prompt's, which are left out of the pooling."""
    model = make_tiny_model("bert", pooling=pooling, prompts={"query": "today: "}).double()
    model.include_prompt = False
    encoder = model.encoder
    skipped = len(model.tokenizer("today: ")["input_ids"]) - 1  # [SEP] is no part of it
    expected = []
    with torch.no_grad(), stock_attention(encoder, "eager"):
        for text in SENTENCES:
            ids = torch.tensor([model.tokenizer("today: " + text)["input_ids"]])
            own = encoder(input_ids=ids).last_hidden_state[0, skipped:]
            expected.append(own.mean(dim=0) if pooling == "mean" else own[0])
    tokens, offsets = model.tokenize(["today: " + text for text in SENTENCES])
    with torch.no_grad():
        found = model.embed_tokens(tokens, offsets, np.arange(len(SENTENCES)), token_budget=30)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-9)
    plain = model.tokenize(SENTENCES)
    assert (plain[0] >= 0).all() and (tokens < 0).sum() == skipped * len(SENTENCES)


def test_marks_of_prompts_make_no_other_content():
    import polars as pl

    model = make_tiny_model("bert", prompts={"query": "today: "})
    unique = pl.DataFrame({"text": ["Read", "read"], "prompt": ["today: ", ""]})
    contents = []
    for model.include_prompt in (True, False):
        probes = probes_of(unique["prompt"])
        frames = probes.frames(*model.tokenize(probes.texts))
        contents.append(contents_of(unique, frames, *model.tokenize(["today: Read", "read"])).tolist())
    assert contents == [[0, 0], [0, 0]]


def test_a_prompt_that_leaves_no_room_is_refused():
    model = make_tiny_model("bert", max_length=5, prompts={"query": "the weather is nice today"})
    model.include_prompt = False
    with pytest.raises(UserError, match="expected room for a text after it"):
        model.encode_query(["Yes."])


# ------------------------------------------------------------------------------------------- direction of attention


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_direction_of_attention_of_every_family(kind, attention, tmp_path):
    """The self-test compares packed with stock; here: who sees whom, and that the saved copy does the same."""
    folder = decoder_folder(tmp_path / "base", kind)
    model = EmbeddingModel.load(folder, attention=attention, pooling="cls", max_length=40)
    first, other = model.encode(["a b c", "a b d"], precision="float32")
    assert np.allclose(first, other) == (attention == "causal")
    model.save(tmp_path / "saved")
    again = EmbeddingModel.load(tmp_path / "saved")
    np.testing.assert_array_equal(*(m.encode(SENTENCES, precision="float32") for m in (model, again)))
    if kind != "gpt2" or attention == "causal":
        assert_same_vectors(model, served(tmp_path / "saved"))


def test_an_encoder_has_one_direction(tmp_path):
    make_tiny_model("bert").save(tmp_path / "bert")
    EmbeddingModel.load(tmp_path / "bert", attention="bidirectional")
    with pytest.raises(UserError, match="causal is not supported by BertModel"):
        EmbeddingModel.load(tmp_path / "bert", attention="causal")
    with pytest.raises(UserError, match=r"model.attention: 'both' is unknown"):
        EmbeddingModel.load(tmp_path / "bert", attention="both")


# -------------------------------------------------------------------------------------------------------- end token


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_new_last_token_model_ends_every_text_also_where_it_is_cut(kind, tmp_path):
    folder = decoder_folder(tmp_path / "base", kind)
    model = EmbeddingModel.load(folder, pooling="last", max_length=12)
    tokens, offsets = model.tokenize(SENTENCES)
    end = model.tokenizer.eos_token_id
    assert np.diff(offsets).max() == 12 and (tokens == end).sum() == len(SENTENCES)
    assert (tokens[offsets[1:] - 1] == end).all() and (tokens[offsets[:-1]] == 0).all()
    model.save(tmp_path / "saved")
    client = served(tmp_path / "saved")
    assert_same_vectors(model, client)
    # Rotary positions are relative, so padding may stand on the left; GPT-2 counts positions from the edge.
    assert client[0].tokenizer.padding_side == ("left" if kind == "llama" else "right")
    again = EmbeddingModel.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.tokenize(SENTENCES)[0], tokens)


def test_end_tokens_are_put_only_where_they_belong(tmp_path):
    folder = decoder_folder(tmp_path / "base", "llama")
    lengths = [
        np.diff(EmbeddingModel.load(folder, **settings).tokenize(["Yes."])[1])[0]
        for settings in (
            {"pooling": "mean"},
            {"pooling": "last", "end_token": False},
            {"pooling": "mean", "end_token": True},
            {"pooling": "last"},
        )
    ]
    assert lengths[0] == lengths[1] == lengths[2] - 1 == lengths[3] - 1
    # A published last-token model stays as it is, though its tokenizer ends texts with nothing.
    EmbeddingModel.load(folder, pooling="last", end_token=False).save(tmp_path / "published")
    published = EmbeddingModel.load(tmp_path / "published")
    assert np.diff(published.tokenize(["Yes."])[1])[0] == lengths[0]
    # BERT's tokenizer ends texts with [SEP].
    make_tiny_model("bert").save(tmp_path / "bert")
    plain, ended = (EmbeddingModel.load(tmp_path / "bert", pooling=pooling) for pooling in ("mean", "last"))
    np.testing.assert_array_equal(plain.tokenize(["Yes."])[0], ended.tokenize(["Yes."])[0])


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    folder = decoder_folder(tmp_path / "base", "llama")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in config.items() if name != "eos_token"}))
    with pytest.raises(UserError, match=r"has no end token for last-token pooling; .*model.end_token: false"):
        EmbeddingModel.load(folder, pooling="last")
