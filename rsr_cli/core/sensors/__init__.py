"""Sensors: which bands a product has, and how its numbers become reflectance."""
