"""sentence-transformers: `encode_query` and `encode_document`, nothing else said."""

from common import job, write
from sentence_transformers import SentenceTransformer

job = job()
model = SentenceTransformer(job["folder"], device="cpu")
rows = model.encode_query(job["queries"]), model.encode_document(job["passages"])
write(job, *rows, "sentence-transformers", "transformers")
