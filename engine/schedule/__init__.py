"""Batches and who runs them when."""
