"""What is done with this machine and not with an account: the program is shown at work, and its
files are put where a system looks for them.

In comes what somebody wants tried or put there; out go files and processes, and all of them can be
taken away again. Only commands enters.
"""
