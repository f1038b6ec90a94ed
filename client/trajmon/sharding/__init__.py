"""Runs that are recorded in parts: which rank holds what, who owns it, and how a new cut is made of old ones.

* chunks.py: a box of one layer's elements, and the shard that a rank records;
* local.py: which chunks this process holds of a model (the only module here that imports torch);
* plan.py: one owner for each distinct chunk, every element covered once;
* exchange.py: how the ranks agree, once, through the process group's store;
* reshard.py: snapshots of an earlier cut, put together for a new one.
"""
