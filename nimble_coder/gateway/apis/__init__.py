"""The HTTP routes, one API per file; `routes.py` is the table of all of them."""
