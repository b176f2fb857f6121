"""The FP16 precision: its graphs, and what an accelerator computes with them."""
