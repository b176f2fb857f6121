"""An FP32 graph, and what is rewritten in it."""
