"""What the owner of an account does with it at its home server: make it there anew, take it for
this copy alone, and make the key by which a private one admits it.

In come an account that is not mounted and what its owner wants; out go requests to the server.
Only commands enters.
"""
