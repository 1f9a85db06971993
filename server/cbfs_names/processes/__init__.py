"""What runs: the directory in one process, and each of its roles apart, with their votes, gossip,
receipts and recovery. In come a store and sockets; out go rounds and answers. Entered by the
program."""
