"""optimum: a feature-extraction model; mean pooling here, or the graph's own embedding where there is a dense layer."""

import numpy as np
from common import job, prompted, write
from optimum.onnxruntime import ORTModelForCustomTasks, ORTModelForFeatureExtraction
from transformers import AutoTokenizer

job = job()
# The feature-extraction class passes on the hidden states alone, the other one every output.
kind = ORTModelForCustomTasks if job["dense"] else ORTModelForFeatureExtraction
model = kind.from_pretrained(job["folder"], subfolder="onnx", file_name=job["file"])
tokenizer = AutoTokenizer.from_pretrained(job["folder"])


def embed(texts):
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
    output = model(**batch)
    if job["dense"]:
        return output["sentence_embedding"]
    mask = batch["attention_mask"][:, :, None]
    rows = (output["last_hidden_state"] * mask).sum(axis=1) / mask.sum(axis=1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


rows = embed(prompted(job, "query")), embed(prompted(job, "passage"))
write(job, *rows, "optimum", "optimum-onnx", "onnxruntime")
