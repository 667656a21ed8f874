"""fastembed: a custom model from a local folder, whose first output is taken as it is."""

from common import job, prompted, write
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

job = job()
TextEmbedding.add_custom_model(
    model="local/model",
    pooling=PoolingType.DISABLED,
    normalization=False,
    sources=ModelSource(hf="local/model"),
    dim=job["width"],
    model_file=f"onnx/{job['file']}",
)
model = TextEmbedding("local/model", specific_model_path=job["folder"])
rows = list(model.embed(prompted(job, "query"))), list(model.embed(prompted(job, "passage")))
write(job, *rows, "fastembed", "onnxruntime")
