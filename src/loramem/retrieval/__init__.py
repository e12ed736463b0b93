"""Text retrieval: text in, text ids out. Chunks that never cut a record, BM25, and embeddings."""

from loramem.retrieval.chunks import Chunk, chunk_records
from loramem.retrieval.search import METHODS, Found, Retrieval, search

__all__ = ["METHODS", "Chunk", "Found", "Retrieval", "chunk_records", "search"]
