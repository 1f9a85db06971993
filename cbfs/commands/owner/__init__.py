"""What the owner of a name does with it, and what they keep apart from the account for that: owner
key, recovery key, certificates.

In come an account that is not mounted and what its owner wants; out go operations on the name, and
files.
Only commands enters.
"""
