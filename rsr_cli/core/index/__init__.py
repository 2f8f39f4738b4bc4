"""The index directory. The only importer of faiss."""
