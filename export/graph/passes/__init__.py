"""What is rewritten in a graph, one file a pass."""
