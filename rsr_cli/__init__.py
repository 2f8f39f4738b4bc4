"""Image retrieval in multi-spectral satellite imagery with geospatial foundation models, as Unix tools."""

__version__ = "0.1.0"
