"""Haystack, with the lines of the model card."""

from common import job, write
from haystack import Document
from haystack_integrations.components.embedders.sentence_transformers import (
    SentenceTransformersDocumentEmbedder,
    SentenceTransformersTextEmbedder,
)

job = job()
text = SentenceTransformersTextEmbedder(model=job["folder"], prefix=job["prompts"]["query"])
document = SentenceTransformersDocumentEmbedder(model=job["folder"], prefix=job["prompts"]["passage"])
text.warm_up()
document.warm_up()
queries = [text.run(text=query)["embedding"] for query in job["queries"]]
documents = document.run(documents=[Document(content=passage) for passage in job["passages"]])["documents"]
rows = [document.embedding for document in documents]
write(job, queries, rows, "haystack-ai", "sentence-transformers-haystack")
