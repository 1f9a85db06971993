"""What is collected here: a cluster of three machines takes two minutes."""

from tests.support.serving import POSTGRES_WIDE

collect_ignore = [] if POSTGRES_WIDE else ["test_cluster.py"]
