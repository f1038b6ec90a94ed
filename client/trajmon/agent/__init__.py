"""The agent: a program of its own beside each training, ``python -m trajmon.agent RUN_DIR``.

Three threads share a :class:`~trajmon.agent.progress.Progress`:

* one drains the slot into the snapshot store (drain.py), so that the slot is free however long a row takes;
* the main thread (loop.py) computes rows (rows.py) strictly by checkpoint number, those that wait together, and
  puts them into the spool (spool.py);
* the sender (sender.py) hands them to the server in order (transport.py), advances the first number that is not
  acknowledged, and brings the server's answers back.

Everything that must survive is on disk before it is relied on: an agent that is killed at any moment goes
on where the files say. Imports no PyTorch.
"""
