"""From texts to vectors to an index: tokenize -> plan -> run -> pool -> normalise -> search."""
