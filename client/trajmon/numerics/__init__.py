"""Exact numbers: which parameters are recorded, how they lie in a snapshot, and their inner products.

============  =========================================================================  ==========
module        what it holds                                                              needs
============  =========================================================================  ==========
``layout``    layers, groups, their place in a snapshot, the fingerprint
``views``     declared parts of a tensor, e.g. Q, K, V of a fused weight
``gram``      the Gram row and update products of a new snapshot                         numba
``sketch``    random projections of snapshots, made in the same pass                     numba
``reference`` the same in exact rational arithmetic, slow: what ``gram`` is tested with
``model``     from a module to its layout, and its parameters into a snapshot            torch
============  =========================================================================  ==========

Nothing is imported here: training needs no numba, and the agent no torch.
"""
