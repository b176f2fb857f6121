"""Serving: an encoder for event loops, which gathers the texts of many requests into full batches."""
