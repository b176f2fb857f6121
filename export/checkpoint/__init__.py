"""A checkpoint: where it comes from, whether it is the one that is meant, and what its files say."""
