"""People, servers and directories that want to do harm, against a real client: a real engine over a
real store. Its network is in memory and its clock jumps, so that hours take milliseconds."""
