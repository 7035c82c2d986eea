"""Dispatch: which consumer gets which ready messages next. Only a leader dispatches; no broker's state needs it.

`dispatcher` serves all queues in turn; each has a `line` of `consumers`. Who of them takes part follows from the
queue's mode (`modes`), whose turn it is from its policy (`policies`, `smooth_weighted`), what fits one pick from
`baskets`. Where messages of one key must stay in order, `key_order` knows which keys are out, `ring` who gets which.
"""
