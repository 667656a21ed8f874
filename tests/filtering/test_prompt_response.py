"""The stage of the prompt-response rules; each rule has its cases in `test_rules.py`."""

import polars as pl
import pytest

from conan_embed.filtering.prompt_response import PROMPT_RESPONSE_RULES, PromptResponseRules, with_echo

REFUSAL = ("写一首诗", "抱歉，我无法为您写诗。")
ANSWER = ("中国的首都是哪里？", "北京是中国的首都，也是全国的政治中心。")


def test_only_marked_pairs_are_checked(make_pairs):
    pairs = make_pairs([REFUSAL, REFUSAL, ANSWER]).with_columns(
        prompt_response=pl.Series([True, False, True])
    )
    outcome = PromptResponseRules(PROMPT_RESPONSE_RULES)(pairs)
    assert outcome.kept["id"].to_list() == [1, 2]
    assert outcome.dropped.select("stage", "dropped_by").rows() == [("prompt_response", "refusal")]
    assert outcome.kept.columns == pairs.columns


def test_without_marked_pairs_nothing_happens(make_pairs):
    pairs = make_pairs([REFUSAL]).with_columns(prompt_response=False)
    outcome = PromptResponseRules(PROMPT_RESPONSE_RULES)(pairs)
    assert outcome.kept.equals(pairs)
    assert outcome.dropped.height == 0


def test_echo_and_rewrite_are_shares_of_common_grams(make_pairs):
    echo = with_echo(make_pairs([("abcdef", "abcdxyz"), ("abc", "xyz")]))
    assert echo["_echo"].to_list() == pytest.approx([2 / 5, 0])  # abc, bcd of abc, bcd, cdx, dxy, xyz
    assert echo["_rewrite"].to_list() == pytest.approx([2 / 7, 0])
