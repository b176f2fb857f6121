"""The bundle: its manifest, its directory, whose files are held against digests, and where it is found."""
