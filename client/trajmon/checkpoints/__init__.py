"""Checkpoints that other programs wrote: found, put in order, and read without running anything in them."""
