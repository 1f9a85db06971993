"""What the operator of a name directory sees of it while it runs, and asks of it. In come the parts
of a process at work; out go figures and answers. Stands on all rooms but the commands, which alone
enter.
"""

FACE = ("figures", "metrics", "operators")
