"""The switch benchmark: real small runs with what came of a switch to norm-only training at many of their checkpoints.

``recipes`` says which runs, of ``networks``, ``tasks`` and ``schedules``; ``training`` follows one and can be
taken up anywhere; ``outcomes`` tries the switches; ``making`` ties these over a ``workshop`` on the disk,
``recording`` writes the file, ``generate`` is the command.
"""
