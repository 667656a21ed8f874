"""Tokenizers are checked once: vocabulary, table, padding; Python ones work as fast ones do."""

import itertools
import json

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.encoder.tokenizer import lowercase, tokenizer_text
from conan_embed.errors import UserError
from tests.tiny_models import SENTENCES, VOCABULARY, make_tiny_model, tiny_encoder


def plain_tokenizer(**special):
    """A fast tokenizer of words that adds nothing to a text."""
    tokenizer = Tokenizer(
        models.WordLevel({"<unk>": 0, **{f"w{i}": i for i in range(1, 60)}}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def saved(tmp_path, family="bert"):
    make_tiny_model(family).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_folder_without_a_tokenizer(tmp_path, family):
    folder = saved(tmp_path, family)
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt"):
        (folder / file).unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"no vocabulary|cannot be loaded"):
        EmbeddingModel.load(folder)


@pytest.mark.parametrize("added", [1, 300])
def test_more_tokens_than_the_model_has_rows(tmp_path, added):
    folder = saved(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"zz{i}q" for i in range(VOCABULARY - len(tokenizer) + added)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        UserError, match=f"the tokenizer has {VOCABULARY + added} tokens, the model {VOCABULARY}"
    ):
        EmbeddingModel.load(folder)


def test_a_special_token_without_a_row_is_refused_where_a_text_holds_it(tmp_path):
    """As in EmbeddingGemma: the tokenizer knows a token for pictures, the model has no row for it."""
    folder = saved(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    fill = VOCABULARY - len(tokenizer)
    tokenizer.add_tokens([f"zz{i}q" for i in range(fill)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    model = EmbeddingModel.load(folder)
    assert model.encode(["a large file"]).shape == (1, 32)
    with pytest.raises(UserError, match=f"text 'a <image>': holds token {VOCABULARY}"):
        model.encode(["a large file", "a <image>"])


@pytest.mark.parametrize("text", ["", " \t\n"])
def test_a_text_of_no_tokens_is_named(text):
    tokenizer = plain_tokenizer(unk_token="<unk>")
    model = EmbeddingModel(tiny_encoder("bert"), tokenizer, max_length=20).eval()
    with pytest.raises(UserError, match="the tokenizer drops all of it"):
        model.encode(["w1 w2", text])
    assert model.encode(["w1 w2", "w3"]).shape == (2, 32)


@pytest.mark.parametrize(
    ("special", "padding"), [({"eos_token": "w5"}, "w5"), ({"unk_token": "<unk>"}, "<unk>")]
)
def test_a_missing_padding_token_is_put_in_for_clients(tmp_path, special, padding):
    model = EmbeddingModel(tiny_encoder("bert"), plain_tokenizer(**special), max_length=20).eval()
    model.save(tmp_path / "model")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "model").pad_token == padding
    with pytest.raises(UserError, match="no padding token"):
        EmbeddingModel(tiny_encoder("bert"), plain_tokenizer(), max_length=20)


def test_token_types_of_a_single_text_are_refused():
    tokenizer = make_tiny_model("bert").tokenizer

    class TwoTypes(type(tokenizer)):
        def __call__(self, *args, **kwargs):
            encoded = super().__call__(*args, **kwargs)
            return {**encoded, "token_type_ids": [2] * len(encoded["input_ids"])}

    other = TwoTypes(vocab=tokenizer.get_vocab())
    with pytest.raises(UserError, match="token types other than 0"):
        EmbeddingModel(tiny_encoder("bert"), other)


# ------------------------------------------------------------------------------------------------ Python tokenizers


def python_tokenizer_folder(tmp_path, kind):
    """A RoBERTa whose tokenizer is written in Python, as PhoBERT's and BERTweet's are."""
    folder = tmp_path / kind.__name__
    folder.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz"
    (folder / "vocab.txt").write_text("".join(f"{letter}@@ 1\n{letter} 1\n" for letter in letters))
    (folder / "bpe.codes").write_text("#version: 0.2\nh o 1\n")
    kind(str(folder / "vocab.txt"), str(folder / "bpe.codes")).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.RobertaConfig(
        **sizes, vocab_size=VOCABULARY, max_position_embeddings=130, type_vocab_size=1, pad_token_id=1
    )
    transformers.RobertaModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", [transformers.PhobertTokenizer, transformers.BertweetTokenizer])
def test_a_python_tokenizer_works_and_is_kept(tmp_path, kind):
    model = EmbeddingModel.load(python_tokenizer_folder(tmp_path, kind), max_length=12)
    assert not model.tokenizer.is_fast
    texts = ["how are you", "o" * 50]
    tokens, offsets = model.tokenize(texts)
    assert [tokens[a:b].tolist() for a, b in itertools.pairwise(offsets)] == model.tokenizer(
        texts, truncation=True, max_length=12
    )["input_ids"]
    model.save(tmp_path / "copy")
    again = EmbeddingModel.load(tmp_path / "copy")
    np.testing.assert_array_equal(
        again.encode(texts, precision="float32"), model.encode(texts, precision="float32")
    )
    assert again.tokenizer_text() == model.tokenizer_text()
    (tmp_path / kind.__name__ / "bpe.codes").write_text("#version: 0.2\nh o 1\na r 1\n")
    assert EmbeddingModel.load(tmp_path / kind.__name__).tokenizer_text() != model.tokenizer_text()


# ---------------------------------------------------------------------------------------------------- lower-casing


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_lower_casing_comes_first_and_is_kept(tmp_path, family):
    folder = saved(tmp_path, family)
    path = folder / "sentence_bert_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_lower_case": True}))
    cased = make_tiny_model(family)
    model = EmbeddingModel.load(folder)
    mixed, lower = "How do I READ a File?", "how do i read a file?"
    assert np.array_equal(model.tokenize([mixed])[0], cased.tokenize([lower])[0])
    model.save(tmp_path / "copy")
    again = EmbeddingModel.load(tmp_path / "copy")
    assert np.array_equal(again.tokenize([mixed])[0], cased.tokenize([lower])[0])
    assert model.tokenizer_text() != cased.tokenizer_text()


def test_a_tokenizer_that_lower_cases_anyway_is_left_alone():
    tokenizer = make_tiny_model("bert").tokenizer
    before = tokenizer_text(tokenizer, {})
    lowercase(tokenizer)
    assert tokenizer_text(tokenizer, {}) == before


def test_the_side_at_which_texts_are_cut_is_part_of_the_text():
    model = make_tiny_model("bert", max_length=5)
    before = model.tokenizer_text(), model.tokenize([SENTENCES[7]])[0].tolist()
    model.tokenizer.truncation_side = "left"
    assert (model.tokenizer_text() != before[0]) and model.tokenize([SENTENCES[7]])[0].tolist() != before[1]
    model.tokenizer.truncation_side = "right"


def test_num_embeddings_are_read_from_the_table():
    encoder = tiny_encoder("bert")
    encoder.resize_token_embeddings(VOCABULARY + 8)
    tokenizer = plain_tokenizer(unk_token="<unk>")
    tokenizer.add_tokens([f"zz{i}" for i in range(VOCABULARY + 8 - len(tokenizer))])
    model = EmbeddingModel(encoder, tokenizer, max_length=20).eval()
    assert torch.isfinite(torch.from_numpy(model.encode(["zz3 w1"]))).all()
