"""LangChain, with the lines of the model card."""

from common import job, write
from langchain_huggingface import HuggingFaceEmbeddings

job = job()
embeddings = HuggingFaceEmbeddings(
    model_name=job["folder"],
    encode_kwargs={"prompt": job["prompts"]["passage"]},
    query_encode_kwargs={"prompt": job["prompts"]["query"]},
)
queries = [embeddings.embed_query(text) for text in job["queries"]]
write(
    job,
    queries,
    embeddings.embed_documents(job["passages"]),
    "langchain-huggingface",
    "sentence-transformers",
)
