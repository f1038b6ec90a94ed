"""Reading a run: maps and hallmarks as xarray objects. Each `# %%` begins a cell.

python docs/examples/reading.py RUN                        # from the local server
python docs/examples/reading.py RUN --data-dir DIR         # from a server's files
"""

# %% Open a run.
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import trajmon

parser = argparse.ArgumentParser()
parser.add_argument("run")
parser.add_argument("--server", help="HOST:PORT")
parser.add_argument("--data-dir", help="what `trajmon-server serve` was given")
parser.add_argument("--out", type=Path, default=Path("reading.png"))
options = parser.parse_args()

run = trajmon.open_run(options.run, server=options.server, data_dir=options.data_dir)
print(run)

# %% What there is: groups, layers, checkpoints, and how the run stands.
print("scopes:", ", ".join(run.scopes[:8]))
print(run.summary[["mds", "update_angle_degrees"]].to_dataframe())
for fact in ("num_checkpoints", "last_step", "advice", "advice_reason"):
    print(f"{fact}: {run.summary.attrs.get(fact, 'not told by files')}")

# %% A trajectory map has its labels with it.
trajectory_map = run.map()
print(f"MDS {trajectory_map.attrs['mds']:.4f} over {trajectory_map.sizes['checkpoint']} checkpoints")
first, last = trajectory_map.checkpoint.values[[0, -1]]
print(f"cosine of first and last: {trajectory_map.sel(checkpoint=first, checkpoint_j=last).item():.4f}")

# %% Entries that rest on sketches have a standard error; the others are exact.
if "standard_error" in trajectory_map.coords:
    print(f"largest standard error: {float(trajectory_map.standard_error.max()):.1e}")

# %% Hallmarks over the checkpoints. Undefined is NaN, and pandas leaves it out of means as well.
hallmarks = run.hallmarks()
table = hallmarks[["mds", "relative_mds", "update_angle_degrees", "update_norm"]].to_dataframe()
print(table.tail())
turns = hallmarks.update_angle_degrees > 90
print(f"{int(turns.sum())} of {hallmarks.sizes['checkpoint']} updates turn back on the one before")

# %% Which groups have settled: the smallest last update relative to the way from the initialization.
summary = run.summary
ratio = summary.update_norm / summary.distance_from_initialization
for group in ratio.group.values[np.argsort(ratio.values)]:
    print(f"{group:24} {float(ratio.sel(group=group)):.3e}")

# %% Draw: the map about the origin, the one about the initialization, and a curve over steps.
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
relative_map = run.map(relative_to=int(first))
for axis, entries, name in ((axes[0], trajectory_map, "mds"), (axes[1], relative_map, "relative_mds")):
    entries.plot.imshow(ax=axis, cmap="Blues", yincrease=False, cbar_kwargs={"shrink": 0.8})
    axis.set_title(f"{name} {entries.attrs[name]:.3f}")
hallmarks.swap_dims(checkpoint="step").mds.plot(ax=axes[2])
axes[2].set_title(run.name)
figure.savefig(options.out, dpi=120)
print("wrote", options.out)

# %% Give the connection up.
run.close()
