"""Weights between two models."""

import numpy as np
import pytest
import torch

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.tuning.merge import interpolate, merge_models
from tests.tiny_models import SENTENCES, make_tiny_model


def test_every_weight_lies_between(tmp_path) -> None:
    one, two = make_tiny_model("bert", seed=1, prompts={"query": "q: "}), make_tiny_model("bert", seed=2)
    one.save(tmp_path / "one")
    two.save(tmp_path / "two")
    merged = EmbeddingModel.load(
        merge_models(tmp_path / "one", tmp_path / "two", tmp_path / "merged", share=0.7)
    )
    first, second = one.state_dict(), two.state_dict()
    for name, weight in merged.state_dict().items():
        expected = 0.7 * first[name].double() + 0.3 * second[name].double()
        torch.testing.assert_close(weight.double(), expected, atol=1e-6, rtol=0, msg=name)
    assert merged.prompts["query"] == "q: "


@pytest.mark.parametrize(("share", "seed"), [(1.0, 1), (0.0, 2)])
def test_the_ends_are_the_models_themselves(tmp_path, share: float, seed: int) -> None:
    for number in (1, 2):
        make_tiny_model("bert", seed=number).save(tmp_path / str(number))
    merge_models(tmp_path / "1", tmp_path / "2", tmp_path / "merged", share=share)
    expected = EmbeddingModel.load(tmp_path / str(seed)).encode(SENTENCES, precision="float32")
    merged = EmbeddingModel.load(tmp_path / "merged").encode(SENTENCES, precision="float32")
    assert np.array_equal(merged, expected)


def test_models_of_different_shapes_are_refused(tmp_path) -> None:
    make_tiny_model("bert").save(tmp_path / "one")
    make_tiny_model("bert", hidden=64).save(tmp_path / "wide")
    make_tiny_model("bert", layers=3).save(tmp_path / "deep")
    with pytest.raises(
        UserError, match=r"one has \(.*, 32\), .*wide has \(.*, 64\); expected models of one shape"
    ):
        merge_models(tmp_path / "one", tmp_path / "wide", tmp_path / "out")
    with pytest.raises(UserError, match=r"deep: has the weight .*layer\.2.*, which .*one lacks"):
        merge_models(tmp_path / "one", tmp_path / "deep", tmp_path / "out")


def test_models_with_different_tokenizers_are_refused(tmp_path) -> None:
    make_tiny_model("bert").save(tmp_path / "one")
    make_tiny_model("roberta").save(tmp_path / "two")
    with pytest.raises(UserError, match="have different tokenizers"):
        merge_models(tmp_path / "one", tmp_path / "two", tmp_path / "out")


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_zero_to_one_is_refused(tmp_path, share: float) -> None:
    with pytest.raises(UserError, match=rf"share: found {share:g}, expected a number from 0 to 1"):
        merge_models(tmp_path / "one", tmp_path / "two", tmp_path / "out", share=share)


def test_integers_are_not_interpolated() -> None:
    first, second = {"ids": torch.arange(3)}, {"ids": torch.arange(3) * 5}
    assert torch.equal(interpolate(first, second, 0.5)["ids"], torch.arange(3))


def test_only_a_model_is_replaced(tmp_path) -> None:
    """A whole run lies in a folder of the same name as its result: merging must not take it for a model."""
    for number in (1, 2, 3):
        make_tiny_model("bert", seed=number).save(tmp_path / str(number))
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(
        UserError, match=r"run: is there already and holds no modules\.json; expected a new folder"
    ):
        merge_models(tmp_path / "1", tmp_path / "2", run)
    assert [path.name for path in run.iterdir()] == ["metrics.jsonl"]
    merge_models(tmp_path / "1", tmp_path / "2", tmp_path / "3", share=1)
    expected = EmbeddingModel.load(tmp_path / "1").encode(SENTENCES, precision="float32")
    assert np.array_equal(
        EmbeddingModel.load(tmp_path / "3").encode(SENTENCES, precision="float32"), expected
    )
