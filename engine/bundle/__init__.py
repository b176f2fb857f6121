"""The bundle: its manifest, its directory, the digests of its files, and where it is found.

This package is private and may change.
"""
