"""For torchrun: FSDP2 trainings by turns watched and unwatched; rank 0 prints the figures as JSON on its last line.

torchrun --nproc-per-node 2 benchmarks/_sharded_program.py HOME STEPS STEPS_PER_CHECKPOINT REPETITIONS
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import trajmon
from trajmon._files import lock_holder

WIDTH, DEPTH, BATCH = 512, 6, 256


def train(name: str, home: Path, steps: int, every: int, *, watched: bool) -> tuple[float, float]:
    """Seconds of all steps, checkpoints included, on this rank; and MiB of its agent's own memory."""
    torch.manual_seed(3)
    model = nn.Sequential(
        *[nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)) for _ in range(DEPTH)]
    )
    for block in model:
        fully_shard(block)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    recorder = None
    if watched:
        recorder = trajmon.watch(
            model, run=name, optimizer=optimizer, home=home, server="127.0.0.1:1", strict=True
        )
    data = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(1))
    dist.barrier()
    begin = time.perf_counter()
    for step in range(steps):
        loss = model(data).square().mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        if recorder is not None and (step + 1) % every == 0:
            recorder.checkpoint(step=step + 1)
    dist.barrier()
    seconds = time.perf_counter() - begin
    memory = 0.0
    if recorder is not None:
        run_dir = next((home / "client").glob(f"{name}~*~{dist.get_rank():05d}"))
        agent = lock_holder(run_dir / "agent.lock")
        recorder.close(timeout=0.0)
        if agent is not None:
            memory = own_memory_mib(agent)
        while lock_holder(run_dir / "agent.lock") is not None:
            time.sleep(0.01)
    dist.barrier()
    return seconds, memory


def own_memory_mib(pid: int) -> float:
    """Memory of a process that is not a file's."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))


def main(home: Path, steps: int, every: int, repetitions: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    train("warm", home, 20, every, watched=False)
    seconds: dict[str, list[float]] = {"watched": [], "unwatched": []}
    memory = 0.0
    for repetition in range(repetitions):
        for kind in ("watched", "unwatched"):
            took, used = train(f"run{repetition}", home, steps, every, watched=kind == "watched")
            seconds[kind].append(took)
            memory = max(memory, used)
    memories: list[float] = [0.0] * dist.get_world_size()
    dist.all_gather_object(memories, memory)
    if dist.get_rank() == 0:
        print(json.dumps({"seconds": seconds, "agent_mib": max(memories)}), flush=True)
    dist.destroy_process_group()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
