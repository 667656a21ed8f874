"""transformers: the encoder and the tokenizer, pooling and dense layers by hand, texts cut as the tokenizer says."""

import json
from pathlib import Path

import torch
from common import job, prompted, write
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

job = job()
folder = Path(job["folder"])
tokenizer = AutoTokenizer.from_pretrained(folder)
model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
assert not report["missing_keys"], report  # or each load warns of weights drawn at random
modules = json.loads((folder / "modules.json").read_text())
dense = [folder / module["path"] for module in modules if module["type"].endswith("Dense")]


@torch.no_grad()
def embed(texts):
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    mask = batch["attention_mask"][:, :, None]
    rows = (model(**batch).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
    for layer in dense:
        weights = load_file(layer / "model.safetensors")
        rows = torch.nn.functional.linear(rows, weights["linear.weight"], weights["linear.bias"])
    return torch.nn.functional.normalize(rows, dim=1).tolist()


write(job, embed(prompted(job, "query")), embed(prompted(job, "passage")), "transformers")
