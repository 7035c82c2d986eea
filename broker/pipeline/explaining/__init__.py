"""The life of one message, told from the log: what happened to it, entry by entry, and where it is now.

`index` knows which stretches of the log may name a message, `life` reads entries as events of its life, `whereabouts`
finds it in the machine, `story` puts the three together. Nothing here is part of the state: a broker that has lost the
index reads the log again.
"""
