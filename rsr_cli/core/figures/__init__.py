"""Figures of hits, maps and points. The only importer of matplotlib, scikit-learn, jinja2 and pillow."""
