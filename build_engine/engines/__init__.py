"""How each kind of engine is made from a checkpoint; one module a kind."""
