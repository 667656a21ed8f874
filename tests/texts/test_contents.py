"""Contents against the obvious reference: texts that are equal, or whose own tokens are equal, hang together."""

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conan_embed.texts.contents import contents_of, probes_of, unread_texts

CLS, SEP = 1, 2


class Tokenizer:
    """A token per word, in lower case, between special tokens; cut at a length; unknown letters give nothing."""

    def __init__(self, length: int = 100, special: bool = True):
        self.length, self.special = length, special

    def words(self, text: str) -> list[int]:
        return [3 + sum(map(ord, word)) for word in text.lower().replace("\u200d", " ").split()]

    def __call__(self, texts):
        extra = 2 if self.special else 0
        rows = [self.words(text)[: self.length - extra] for text in texts]
        rows = [[CLS, *row, SEP] if self.special else row for row in rows]
        offsets = np.cumsum([0, *map(len, rows)])
        return np.array([t for row in rows for t in row], np.int32), offsets


def contents(texts, tokenize):
    """Return the contents of (prompt, text) pairs, no two of them equal."""
    unique = pl.DataFrame({"text": [t for _, t in texts], "prompt": [p for p, _ in texts]})
    probes = probes_of(unique["prompt"])
    frames = probes.frames(*tokenize(probes.texts))
    tokens, offsets = tokenize([prompt + text for prompt, text in texts])
    return (
        contents_of(unique, frames, tokens, offsets).tolist(),
        unread_texts(unique["prompt"], frames, tokens, offsets).tolist(),
    )


def components(texts, tokenize):
    """The reference: join the sets of equal texts and equal tokens until nothing changes."""

    def alike(one, other):
        own = [tokenize.words(prompt + text)[len(tokenize.words(prompt)) :] for prompt, text in (one, other)]
        room = [tokenize.length - 2 - len(tokenize.words(prompt)) for prompt, _ in (one, other)]
        cut = [words[:size] for words, size in zip(own, room, strict=True)]
        return one[1] == other[1] or (cut[0] == cut[1] != [])

    label = list(range(len(texts)))
    for _ in texts:
        for i, j in itertools.product(range(len(texts)), repeat=2):
            if alike(texts[i], texts[j]):
                label[i] = label[j] = min(label[i], label[j])
    order = list(dict.fromkeys(label))
    return [order.index(number) for number in label]


text = (
    st.lists(st.sampled_from(["how", "How", "HOW", "to", "do", " "]), min_size=1, max_size=5)
    .map(" ".join)
    .filter(str.strip)
)
texts = st.lists(
    st.tuples(st.sampled_from(["", "ask: ", "tell me: "]), text), min_size=1, max_size=8, unique=True
)


@given(texts, st.sampled_from([5, 6, 100]))
def test_contents_are_those_of_the_reference(texts, length):
    tokenize = Tokenizer(length)
    found, _ = contents(texts, tokenize)
    assert found == components(texts, tokenize)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("", "Beijing is the capital."), ("", "beijing is  the capital.")),
        (("ask: ", "What now"), ("tell: ", "what NOW ")),
        (("", "one two three four five six"), ("", "one two three four and more")),
        (("", "a\u200db"), ("ask: ", "a b")),
    ],
)
def test_what_is_read_alike_has_one_content(one, other):
    assert contents([one, other, ("", "unlike")], Tokenizer(6))[0] == [0, 0, 1]


def test_what_is_read_differently_has_contents_of_its_own():
    several = [
        ("", "one two"),
        ("", "one three"),
        ("ask: ", "two one"),
        ("", "ask: one two"),
        ("ask: ", "one"),
    ]
    assert contents(several, Tokenizer())[0] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("special", [True, False])
def test_texts_of_which_nothing_is_left_are_found(special):
    several = [("", "one"), ("", "\u200d"), ("ask: ", "\u200d"), ("ask: ", "two"), ("", " ")]
    assert contents(several, Tokenizer(special=special))[1] == [1, 2, 4]


def test_a_tokenizer_that_knows_none_of_the_probes():
    """All words are unknown: nothing can be told of the prompt, and nothing is mixed up."""
    tokenize = Tokenizer()
    tokenize.words = lambda text: [3 for _ in text.split()]  # type: ignore[method-assign]
    several = [("", "x"), ("", "y z"), ("ask: ", "x"), ("", "w"), ("", "u v"), ("", "Y  z")]
    # "ask: x" is no "y z", and unknown words may be any: only case and blanks do not count.
    assert contents(several, tokenize) == ([0, 1, 0, 2, 3, 1], [])


@pytest.mark.parametrize("prompt", ["", "ask: "])
def test_unknown_words_may_be_any_but_for_case_and_blanks(prompt):
    """A tokenizer that knows "how", "to" and the probes; all other words are one token."""
    tokenize = Tokenizer(8)
    known = ["how", "to", "a", "1", "的", "?", "ask:"]
    tokenize.words = lambda text: [  # type: ignore[method-assign]
        4 + known.index(word) if word in known else 3 for word in text.lower().split()
    ]
    several = ["how to x", "how to y", "How  to X", "how to", "HOW TO", "x", "y"]
    assert contents([(prompt, text) for text in several], tokenize)[0] == [0, 1, 0, 2, 2, 3, 4]
    # Beyond the length, nothing is read: there the tokens decide.
    long = "how to how to how to how"
    assert contents([(prompt, f"x {long} {end}") for end in ("one", "two")], tokenize)[0] == [0, 0]


def test_a_tokenizer_that_tells_nothing_apart_merges_nothing():
    tokenize = Tokenizer()
    tokenize.words = lambda text: [3]  # type: ignore[method-assign]
    assert contents([("", "x"), ("", "y"), ("ask: ", "x"), ("ask: ", "z")], tokenize) == ([0, 1, 0, 2], [])
