"""Peak shaving: how fast a queue may deliver, and what may be published to it. Decisions of a leader, never state.

`gates` says, for each queue with a limit, how many messages may go now, and when more may: the dispatcher asks before
each pick. A gate has token `buckets`, a cap on what is out, and where the queue asks for it an `adaptive` rate.
`admission` judges publishes. Times are seconds on whatever clock the caller uses; what day it is says a function.
"""
