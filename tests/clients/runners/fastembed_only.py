"""fastembed: a custom model from a local folder, whose first output is taken as it is."""

from pathlib import Path

from common import job, prompted, write
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

job = job()
name = f"local/{Path(job['output']).stem}"
TextEmbedding.add_custom_model(
    model=name,
    pooling=PoolingType.DISABLED,
    normalization=False,
    sources=ModelSource(hf=name),
    dim=job["width"],
    model_file=f"onnx/{job['file']}",
)
model = TextEmbedding(name, specific_model_path=job["folder"])
rows = list(model.embed(prompted(job, "query"))), list(model.embed(prompted(job, "passage")))
write(job, *rows, "fastembed", "onnxruntime")
