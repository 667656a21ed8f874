"""onnxruntime and tokenizers, as servers without transformers do it; tokenizer.json says where texts are cut."""

from pathlib import Path

import numpy as np
import onnxruntime
from common import job, prompted, write
from tokenizers import Tokenizer

job = job()
folder = Path(job["folder"])
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_padding()
session = onnxruntime.InferenceSession(str(folder / "onnx" / job["file"]), providers=["CPUExecutionProvider"])


def embed(texts):
    batch = tokenizer.encode_batch(texts)
    inputs = {
        "input_ids": np.array([text.ids for text in batch], np.int64),
        "attention_mask": np.array([text.attention_mask for text in batch], np.int64),
    }
    return session.run(["sentence_embedding"], inputs)[0]


write(job, embed(prompted(job, "query")), embed(prompted(job, "passage")), "onnxruntime", "tokenizers")
