"""Walks through all states of small ensembles of real replicas; `python -m tests.broker.replication.walks`.

Where the simulator draws lots, a walk leaves nothing out: from every state it takes every step that is possible there,
until no new state is left or the bound is reached. That is possible because a replica is a pure function, so

- a node's state is interned: what a node does with an event is computed once, by the real core, and remembered; a state
  of the ensemble is a handful of small numbers (`nodes`);
- what cannot matter is left out of a node's state: how many tokens were used up before, and the reasons given in words
  (`canonical`).

`shell` holds one node and its disk, `ensemble` the links and the possible steps, `search` the walk and its report. The
invariants I1 to I12 of the design that concern a core without clients are checked in `shell` (one node) and `ensemble`.
"""
