"""Exports of a served model's item embeddings to Faiss, Vertex AI Vector Search and Parquet."""
