"""The life of one message, told from the log: what happened to it, entry by entry, and where it is now.

`index` knows which stretches of the log may name a message, `life` reads entries as events of its life, `hearing` lets
it hear them in order, however long the log is, `whereabouts` finds it in the machine, `story` puts all together. It is
no part of the state: a broker that has lost the index reads the log again.
"""
