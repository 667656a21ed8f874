"""Large buffers are kept while texts are encoded, and not afterwards (what that spares: benchmarks/encode_speed.py)."""

import pytest

from conan_embed import malloc
from tests.tiny_models import make_tiny_model


@pytest.fixture
def told(monkeypatch):
    """What glibc is told, in order; nothing of it happens."""
    for name in malloc._ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    if malloc._glibc() is None:
        pytest.skip("another C library")
    parameters = []
    monkeypatch.setattr(malloc, "_set", lambda _, changes: parameters.append(changes))
    return parameters


def test_encoding_keeps_buffers_until_its_end(told):
    make_tiny_model("bert").encode(["one text"])
    assert told == [malloc._KEEP, malloc._DEFAULTS]


def test_an_error_ends_it_too(told):
    with pytest.raises(RuntimeError, match="inside"), malloc.keep_buffers():
        raise RuntimeError("inside")
    assert told == [malloc._KEEP, malloc._DEFAULTS]


def test_who_set_glibc_up_is_left_alone(told, monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
    with malloc.keep_buffers():
        pass
    assert told == []
