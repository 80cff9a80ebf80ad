"""ScannIndexer: the catalog's embeddings behind one served signature."""
