"""The INT8 precision: what is quantised, how inputs and weights are rounded, and on which texts."""
