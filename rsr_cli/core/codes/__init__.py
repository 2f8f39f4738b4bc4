"""Binary codes of embeddings."""
