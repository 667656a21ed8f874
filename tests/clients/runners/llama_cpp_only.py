"""llama.cpp: the folder converted to GGUF by its own converter. Texts are cut here: GGUF has no trained length."""

import subprocess
import sys
import tempfile
from pathlib import Path

from common import job, prompted, write
from llama_cpp import Llama

job = job()
[converter] = Path(sys.prefix).glob("source/*/vendor/llama.cpp/convert_hf_to_gguf.py")
file = Path(tempfile.mkdtemp()) / "model.gguf"
command = [sys.executable, str(converter), job["folder"], "--outfile", str(file), "--outtype", "f32"]
subprocess.run(command, check=True, capture_output=True)
model = Llama(str(file), embedding=True, verbose=False, n_ctx=512, n_batch=512)


def cut(text):
    """The text up to the trained length, special tokens counted."""
    tokens = model.tokenize(text.encode())
    return (
        text
        if len(tokens) <= job["max_length"]
        else model.detokenize(tokens[1 : job["max_length"] - 1]).decode()
    )


rows = [
    model.embed([cut(text) for text in prompted(job, role)], normalize=True) for role in ("query", "passage")
]
write(job, *rows, "llama-cpp-python", "gguf")
