"""The background cosine against a loop over all pairs, and what it does for the rule."""

import numpy as np
import pytest
import torch

from conan_embed.negatives.background import above_background, background_cosine
from conan_embed.negatives.rules import MeanRule


def test_mean_over_all_pairs():
    generator = torch.Generator().manual_seed(0)
    query, candidate = (
        torch.randn(5, 8, generator=generator) + 1,
        torch.randn(7, 8, generator=generator) * 3 + 1,
    )
    slow = [
        torch.nn.functional.cosine_similarity(q, c, dim=0).item()
        for q in query.double()
        for c in candidate.double()
    ]
    unit = [torch.nn.functional.normalize(x, dim=1) for x in (query, candidate)]
    assert background_cosine(*unit).item() == pytest.approx(np.mean(slow), abs=1e-6)


def test_unrelated_is_zero_and_identical_is_one():
    assert above_background(np.array([0.75, 1.0, np.nan]), 0.75)[:2].tolist() == [0, 1]


def test_the_rule_no_longer_depends_on_where_a_model_keeps_its_cosines():
    """Scores squeezed into [b, 1], as E5 does, are flagged as the spread-out ones are; as they stand they never are."""
    generator = np.random.default_rng(0)
    spread = generator.uniform(0, 1, (2, 200))
    squeezed = 0.75 + 0.25 * spread
    flagged = {}
    for name, scores in {
        "spread": spread,
        "squeezed": squeezed,
        "relative": above_background(squeezed, 0.75),
    }.items():
        initial, current = (np.repeat(each[:, None], 2, axis=1).astype(np.float32) for each in scores)
        learned = MeanRule(1.15, 0.8).learned(initial, current, np.full_like(initial, np.nan))
        flagged[name] = np.flatnonzero(learned.any(axis=1)).tolist()
    assert len(flagged["spread"]) > 50
    assert flagged["relative"] == flagged["spread"]
    assert len(flagged["squeezed"]) < len(flagged["spread"]) / 2
