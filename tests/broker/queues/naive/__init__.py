"""The other opinion about the queue machine: everything a queue does, as anyone would write it first.

`world` keeps dicts and lists, one dict a message; the modules beside it say what each kind of entry does to them, one
concern each. They share nothing with the product but the shapes of entries, the names of settings and the errors, and
they must stay so simple that one sees that they are right. `life` plays leader and clients beside a machine and this;
`machine` lets hypothesis choose the steps, `python -m tests.broker.queues.naive` a seed.

What they do not decide: in which order messages that die in one entry line up elsewhere, and how many runs make up what
an entry with a limit takes.
"""
