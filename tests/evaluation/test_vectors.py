"""The cache of vectors encodes a text once, whoever asks, and hands out prefixes."""

import numpy as np

from conan_embed.evaluation import vectors
from conan_embed.evaluation.vectors import VectorCache
from tests.support.evaluation_fakes import BagOfWords


def test_each_text_is_encoded_once_and_widths_are_normalised_prefixes(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "_TEXTS_AT_ONCE", 2)  # several slices, and the file grows between two calls
    model = BagOfWords(32)
    first, second = ["猫 狗", "river stone", "猫 狗", "bread"], ["light", "bread", "train paper"]
    with VectorCache(lambda texts, prompt: model.encode(texts, prompt=prompt), 32, tmp_path) as cache:
        found = [
            cache(first, prompt="ask: "),
            cache(second, prompt="ask: "),
            cache(first, prompt="ask: ", width=8),
        ]
        other = cache(first)
        assert len(cache) == 5 + 3
        assert cache([]).shape == (0, 32)
    assert sorted(text for _, texts in model.calls for text in texts) == sorted(
        [*set(first + second), *set(first)]
    )
    plain = BagOfWords(32)
    np.testing.assert_array_equal(found[0], plain.encode(first, prompt="ask: "))
    np.testing.assert_array_equal(found[1], plain.encode(second, prompt="ask: "))
    np.testing.assert_array_equal(other, plain.encode(first))
    prefix = plain.encode(first, prompt="ask: ")[:, :8]
    np.testing.assert_allclose(found[2], prefix / np.linalg.norm(prefix, axis=1, keepdims=True), rtol=1e-6)
    assert not list(tmp_path.iterdir())
