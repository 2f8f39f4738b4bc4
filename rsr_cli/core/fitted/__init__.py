"""What is learned from a sample of embeddings: transforms of embeddings, and the files that keep them."""
