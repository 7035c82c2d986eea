"""Routing: which queues get what is published to a topic.

`sources` knows all topics and who is bound to them, `topic` is one of them, `trie` finds the patterns that match a
route, `filling` lets a subscription catch up with what its topic retains. What entries do with it stands in
`applying.topics` and `applying.routing`.
"""
