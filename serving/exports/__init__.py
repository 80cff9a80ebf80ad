"""Other homes for a served model's item embeddings: Faiss, Vertex AI Vector Search, Parquet."""
