"""The bytes of checkpoints on the training machine: the slot in shared memory, the files, their store."""
