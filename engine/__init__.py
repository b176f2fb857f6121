"""From texts to vectors to an index: tokenize -> plan -> run -> pool -> normalise -> search.

Private: the public names are those of `paritas`.
"""
