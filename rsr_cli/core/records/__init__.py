"""Records: GeoJSON Features with vectors, in batches, read from and written to files."""
