"""The index directory: building it, opening it, searching it. The only importer of faiss."""
