"""Commands on a finished model: what is typed reaches the function that does the work."""

from pathlib import Path


def test_encode(calls_of):
    typed = ["encode", "texts.csv", "-o", "out.npy", "--model", "m", "--query", "--width", "8"]
    call = calls_of("conan_embed.tuning.encoding.encode_file_with", 1234, *typed)
    assert call == (("m", Path("texts.csv"), Path("out.npy")), {"query": True, "width": 8})


def test_export(calls_of):
    typed = ["export", "m", "out", "--format", "onnx", "--quantize", "int8"]
    call = calls_of("conan_embed.export.export", Path("out"), *typed)
    assert call == ((Path("m"), Path("out")), {"format": "onnx", "quantize": "int8", "width": None})


def test_merge(calls_of):
    call = calls_of(
        "conan_embed.tuning.merge.merge_models", "out", "merge", "a", "b", "-o", "out", "--share", "0.7"
    )
    assert call == (("a", "b", Path("out")), {"share": 0.7})
