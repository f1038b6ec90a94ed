"""One of two ranks that save a checkpoint together: ``save_sharded.py FOLDER RANK``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_saver import save as save_checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor

TENSORS: dict[str, tuple[tuple[int, ...], torch.dtype, Placement]] = {
    "rows": ((7, 5), torch.float32, Shard(0)),
    "columns": ((6, 9), torch.bfloat16, Shard(1)),
    "middle": ((3, 5, 4), torch.float64, Shard(1)),
    # One rank has nothing of it.
    "small": ((1, 3), torch.float32, Shard(0)),
    "copied": ((4,), torch.float16, Replicate()),
}


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    whole = {name: torch.randn(shape).to(dtype) for name, (shape, dtype, _) in TENSORS.items()}
    state = {name: distribute_tensor(whole[name], mesh, [TENSORS[name][2]]) for name in TENSORS}
    save_checkpoint({"model": state, "step": 5}, checkpoint_id=folder / "step-5")
    if rank == 0:
        torch.save(whole, folder / "whole.pt")
    dist.destroy_process_group()
    # On a busy machine gloo's threads now and then abort the interpreter's end.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
