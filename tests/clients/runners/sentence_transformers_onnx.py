"""sentence-transformers with its onnx backend: optimum runs the encoder, pooling and dense layers stay torch's."""

from common import job, write
from sentence_transformers import SentenceTransformer

job = job()
model = SentenceTransformer(
    job["folder"], backend="onnx", device="cpu", model_kwargs={"file_name": f"onnx/{job['file']}"}
)
rows = model.encode_query(job["queries"]), model.encode_document(job["passages"])
write(job, *rows, "sentence-transformers", "optimum", "onnxruntime")
