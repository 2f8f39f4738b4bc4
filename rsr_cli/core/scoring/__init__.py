"""Measuring hits: metrics, labels and relevance judgements."""
