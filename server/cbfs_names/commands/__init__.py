"""The programs of ``cbfs-names``: serving, and the commands beside it for keys, invites, terms and
changes of a directory's configuration. In come command lines; out go files, and lines for the
operator. Nobody enters but the program's entry.
"""

FACE = ()
