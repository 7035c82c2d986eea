"""What is kept beside the road, so that memory, disk and the time of a start stay bounded however long it is used.

`paging` moves the indexes of long queues to a file and back; `snapshots` writes the machine down, and `restart` is the
way back from there; `reclaim` gives the disk back what a snapshot says is dead, by the rules of `reclaim_plan`, the
figures of `liveness` and at the speed of `pace`; `disk_space` says who is slowed and refused when room runs out.

No message passes through here: the stages of the road ask and tell, and go on. Nothing here may import a stage, but for
its type.
"""
