"""From token vectors to a text's vector. This package is private and may change."""
