"""Which texts run together, and which batch runs when. This package is private and may change."""
