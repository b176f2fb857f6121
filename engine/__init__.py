"""From texts to vectors to an index: tokenize -> plan -> run -> pool -> normalise -> search.

Private, but for `paritas.engine.index`: the public names are those of `paritas`. The rest may change.
"""
