"""What is found at a path: files, products and published data sets."""
