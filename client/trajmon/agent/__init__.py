"""The agent: a program of its own beside each training, ``python -m trajmon.agent RUN_DIR``.

Two threads share a :class:`~trajmon.agent.progress.Progress`:

* the main thread (loop.py) drains the slot into the snapshot store, computes rows (rows.py) strictly by
  checkpoint number, and puts them into the spool (spool.py);
* the sender (sender.py) hands them to the server in order (transport.py), advances the first number that is not
  acknowledged, and brings the server's answers back.

Everything that must survive is on disk before it is relied on: an agent that is killed at any moment goes
on where the files say. Imports no PyTorch.
"""
