"""LlamaIndex, with the lines of the model card."""

from common import job, write
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

job = job()
embedding = HuggingFaceEmbedding(
    model_name=job["folder"],
    query_instruction=job["prompts"]["query"],
    text_instruction=job["prompts"]["passage"],
)
queries = [embedding.get_query_embedding(text) for text in job["queries"]]
passages = embedding.get_text_embedding_batch(job["passages"])
write(job, queries, passages, "llama-index-embeddings-huggingface", "sentence-transformers")
