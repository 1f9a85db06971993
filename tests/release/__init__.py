"""The package as others get it: built, installed, used and removed in bare systems of each
distribution that it is for, by ``./run test package``.

All of it runs in namespaces of its own: mounts, and the files of these systems, which are in
memory, are gone with its last process, however that ends.
"""
