"""The networks exported natively: what each is made of, its graph and its NumPy reference."""
