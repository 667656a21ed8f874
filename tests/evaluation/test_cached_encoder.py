"""The cache of embeddings encodes a text once, whoever asks, and hands out prefixes."""

import numpy as np
import pytest

from conan_embed.errors import NotFinite
from conan_embed.evaluation import cached_encoder
from conan_embed.evaluation.cached_encoder import CachedEncoder
from tests.support.evaluation_fakes import BagOfWords


@pytest.mark.parametrize("in_file", [False, True])
def test_each_text_is_encoded_once_and_widths_are_normalised_prefixes(tmp_path, monkeypatch, in_file):
    monkeypatch.setattr(
        cached_encoder, "_TEXTS_AT_ONCE", 2
    )  # several slices, and the store grows between two calls
    model = BagOfWords(32)
    first, second = ["猫 狗", "river stone", "猫 狗", "bread"], ["light", "bread", "train paper"]
    with CachedEncoder(model, tmp_path if in_file else None) as encoder:
        assert encoder.encode([]).shape == (0, 32)
        asked = encoder.encode(first, prompt="ask: ")
        later = encoder.encode(second, prompt="ask: ")
        narrow = encoder.encode(first, prompt="ask: ", width=8)
        other = encoder.encode(first)
        assert len(encoder) == 5 + 3
        assert encoder.encode([], width=8).shape == (0, 8)
        assert (encoder.prompts, encoder.width) == (model.prompts, 32)
    assert sorted(text for _, texts in model.calls for text in texts) == sorted(
        [*set(first + second), *set(first)]
    )
    plain = BagOfWords(32)
    np.testing.assert_array_equal(asked, plain.encode(first, prompt="ask: "))
    np.testing.assert_array_equal(later, plain.encode(second, prompt="ask: "))
    np.testing.assert_array_equal(other, plain.encode(first))
    prefix = plain.encode(first, prompt="ask: ")[:, :8]
    np.testing.assert_allclose(narrow, prefix / np.linalg.norm(prefix, axis=1, keepdims=True), rtol=1e-6)
    assert not list(tmp_path.iterdir())


def test_options_reach_the_model():
    class Model(BagOfWords):
        def encode(self, texts, *, prompt="", precision):
            assert precision == "float32"
            return super().encode(texts, prompt=prompt)

    assert CachedEncoder(Model(), precision="float32").encode(["a"]).shape == (1, 32)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_no_numbers_are_refused(value):
    class Model(BagOfWords):
        def encode(self, texts, *, prompt=""):
            vectors = super().encode(texts, prompt=prompt)
            vectors[1:, 0] = value
            return vectors

    with pytest.raises(NotFinite, match=r"embeddings of 2 of 3 texts hold NaN .* that of 'bread'"):
        CachedEncoder(Model()).encode(["猫", "bread", "light"])
