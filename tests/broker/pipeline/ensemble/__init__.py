"""The replication core on real logs: brokers of an ensemble in one process, without sockets."""
