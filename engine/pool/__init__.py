"""From token vectors to a text's vector."""
