import pytest

from tests.tiny_models import make_tiny_model


@pytest.fixture
def saved(tmp_path):
    """A saved BERT with a dense layer, and its folder."""
    model = make_tiny_model(
        "bert", pooling="cls", dense_width=24, widths=(8,), max_length=20, prompts={"query": "问："}
    )
    model.save(tmp_path / "model")
    return model, tmp_path / "model"
