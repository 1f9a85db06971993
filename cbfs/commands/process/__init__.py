"""The process of a program of ours: what it inherits is put in order, it leaves the terminal as a
daemon, its log makes nobody wait, and its memory does not reach a disk.

In comes a function that serves; out go its exit code and what it has to say. Only commands enters.
"""
