"""Checkpoints that already exist: their Gram matrices, each byte of each file read once.

=============  ===========================================================================================
module         what it holds
=============  ===========================================================================================
``cut``        which tensors give which layers, and the blocks in which they are read
``kernel``     the compiled sums of one block over all checkpoints
``blocks``     reading a block from every checkpoint, and its sums
``tree``       how the sums of blocks are added: one order, whoever computes them
``gram``       all of it on this machine: :func:`~trajmon.ingest.gram.gram_of_checkpoints`
``cluster``    the same as Dask tasks
``journal``    what is finished, on disk, so that an interrupted ingest goes on
``series``     the checkpoints of an ingest: what they are known by, and what is left out
``run``        the run's folder: begun, gone on with, refused
``deliver``    rows from the sums, through the agent's spool and sender to the server
=============  ===========================================================================================

Nothing is imported here. No module needs torch; the readers of some checkpoint formats do.
"""
