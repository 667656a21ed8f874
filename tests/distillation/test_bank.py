"""A teacher's embeddings of all texts: which there are, made once, projected."""

import numpy as np
import pytest

from conan_embed.distillation.bank import axes_of, make_banks, principal_axes


def test_every_text_that_may_become_a_negative_is_in_the_bank(step, teacher_model, tmp_path):
    tasks, table, _ = step
    _, passages = make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")
    for data in tasks.retrieval:
        assert np.isin(data.passages, passages.text_ids).all()
    assert np.isin(table.ranking_QK[table.ranking_QK >= 0], passages.text_ids).all()


def test_the_bank_is_made_once_and_anew_for_another_teacher(step, teacher_model, tmp_path, monkeypatch):
    tasks, _, _ = step
    first = make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")
    monkeypatch.setattr("conan_embed.distillation.bank.embed_with", None)
    again = make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")
    for one, two in zip(first, again, strict=True):
        assert one.key == two.key and np.array_equal(one.rows_ND, two.rows_ND)
    teacher_model.prompts = teacher_model.prompts | {"query": "other: "}
    with pytest.raises(TypeError):  # embeds
        make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")


def test_the_projection_keeps_as_much_of_the_passages_as_any(step, teacher_model, tmp_path):
    """Against the singular value decomposition in float64; the axes are orthogonal."""
    tasks, _, _ = step
    _, whole = make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")
    rows = whole.rows_ND.astype(np.float64)
    axes = principal_axes(whole.rows_ND, 8)
    np.testing.assert_allclose(axes.T @ axes, np.eye(8), atol=1e-6)
    values = np.linalg.svd(rows, compute_uv=False)
    assert np.square(rows @ axes).sum() == pytest.approx(np.square(values[:8]).sum(), rel=1e-5)


def test_axes_are_worked_out_once(step, teacher_model, tmp_path, monkeypatch):
    tasks, _, _ = step
    _, passages = make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")
    first = axes_of(passages, 8, tmp_path)
    assert np.array_equal(first, principal_axes(passages.rows_ND, 8))
    monkeypatch.setattr("conan_embed.distillation.bank.principal_axes", None)
    assert np.array_equal(axes_of(passages, 8, tmp_path), first)
    with pytest.raises(TypeError):  # another width: worked out
        axes_of(passages, 4, tmp_path)
