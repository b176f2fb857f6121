"""Sessions of onnxruntime: the graph as this machine runs it, its CPU and its memory.

This package is private and may change.
"""
