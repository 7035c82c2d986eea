"""Connections to the other brokers of the cluster: what they are made of, who opens them, and when they end.

Between two brokers there is one **connection** at a time, with a number that both ends know and that never returns. It
is made of TCP **streams**, so that what must overtake does overtake, in the network too: a control stream (pings,
pongs, votes), a data stream (everything else, in order), and one for each snapshot that is under way. When one of the
first two ends or falls silent, the connection ends as a whole.

Whoever has no connection dials, with growing pauses; so both may dial at once. A connection exists when its data stream
is attached, and then everything else between the two goes (`mesh`). Who opened it also opens further streams, because
the other way may not exist (`connection`).

These modules must not know what the messages mean; the driver of the replication core does (`pipeline/ensemble`).
"""
