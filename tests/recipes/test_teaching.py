"""The section of a teacher: what cannot teach is refused."""

import pytest

from conan_embed.errors import UserError
from conan_embed.recipes.teaching import Teacher


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ({"model": "x"}, "found no weight; expected kl, margin_mse, embedding or ignore_above_positive"),
        ({"kl": 1.0}, "found no model for the kind 'bi-encoder', expected one"),
        (
            {"kind": "columns", "model": "x", "kl": 1.0},
            "found the model 'x' for the kind 'columns', expected none",
        ),
        ({"kind": "columns", "embedding": 1.0}, "found a weight for the kind 'columns', expected 0"),
    ],
)
def test_teachers_that_cannot_teach_are_refused(teacher, words):
    with pytest.raises((ValueError, UserError), match=words):
        Teacher(**teacher)
