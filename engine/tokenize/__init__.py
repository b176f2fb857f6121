"""From texts to tokens: what callers give, repeated texts, long ones, and the tokenizer.

This package is private and may change.
"""
