"""The name directory: who has which name, provable to everybody and falsified by no single server.

``state`` is on the disk, ``wire`` is what comes and goes, ``rounds`` makes one round, ``processes``
makes one after the other, ``commands`` is the program. Begin at ``processes/single.py``, a whole
directory in one process; ``processes/roles.py`` is the same work apart, for sequencer and
verifiers.
"""
