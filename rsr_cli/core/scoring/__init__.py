"""Scoring: hits judged by labels or qrels, and retrieval metrics."""
