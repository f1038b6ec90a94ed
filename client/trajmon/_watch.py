"""`watch`: from a model and a run's name to a recorder."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

from torch import nn

from trajmon._opening import Options, Resume, check_options, open_whole
from trajmon._outlook import Outlook
from trajmon._plan import Plan
from trajmon._recorder import Recorder
from trajmon._session import Session
from trajmon._settings import default_threads, home_directory
from trajmon._status import RecorderStatus
from trajmon._trigger import StepTrigger
from trajmon.advice import Advice
from trajmon.errors import RanksMissingError, RefusedError
from trajmon.families.detection import presets_for
from trajmon.numerics.model import plan_model
from trajmon.numerics.views import View
from trajmon.schedules import Schedule, parse_schedule
from trajmon.sharding.exchange import (
    Exchange,
    LocalExchange,
    StoreAgreement,
    StoreExchange,
    this_exchange,
)
from trajmon.sharding.local import is_sharded, lies_in_runs
from trajmon.sharding.opening import has_shards, open_shard
from trajmon.snapshots.format import CopyMode
from trajmon.snapshots.keeping import SnapshotMode
from trajmon.switch.actor import AdviceActor, OnAdvice
from trajmon_protos.sketch import SketchSpec

__all__ = ["Resume", "watch"]

log = logging.getLogger("trajmon")


def watch(
    model: nn.Module,
    *,
    run: str,
    optimizer: object | None = None,
    server: str | None = None,
    initial: bool = True,
    every: str | int | Schedule | None = None,
    first_step: int = 0,
    plan: Plan | None = None,
    copy: CopyMode = "wait",
    on_advice: OnAdvice = "log",
    advice_callback: Callable[[Advice], object] | None = None,
    tags: Sequence[str] = (),
    groups: Mapping[str, str | Sequence[str]] | None = None,
    views: Sequence[View] = (),
    family: str | None = "auto",
    resume: Resume = "never",
    home: str | os.PathLike[str] | None = None,
    snapshot_dir: str | os.PathLike[str] | None = None,
    snapshot_budget_bytes: int | None = None,
    mode: SnapshotMode = "exact",
    snapshots_kept: int | None = None,
    sketch: SketchSpec | bool = False,
    memory_budget_bytes: int | None = None,
    strict: bool = False,
    agent_threads: int | None = None,
) -> Recorder:
    """Start recording a training, or continue a recorded run as its next attempt.

    `initial` records the parameters as they are now as checkpoint 0 of a new run. `server` is ``HOST:PORT``, or
    ``grpcs://HOST:PORT`` over TLS; else ``TRAJMON_SERVER``, else the local server. `every` records by itself: a number
    of optimizer steps, "epoch" or "log", see :mod:`trajmon.schedules`; `first_step` is how many steps the optimizer
    took before. `on_advice`: "log" the server's advice, hand it to `advice_callback`, or "switch": follow it, see
    :mod:`trajmon.switch`.

    `plan`: what training intends, see :class:`trajmon.Plan`; the server's forecast then is of this training. With
    `torch.distributed` rank 0's counts.

    `family`: views and groups of a known architecture, so that Q, K and V have maps of their own; "auto" finds it, None
    leaves it out, see :mod:`trajmon.families`. They are part of what identifies a run's model.

    `copy`: "wait" until the parameters are copied, or, with all of them on one CUDA device, "overlap": the copy runs
    beside the next forward and backward pass, and the next optimizer step waits for it on the device.

    Snapshots are files that the agent maps: below `home`, or below `snapshot_dir`, e.g. on another disk or in a tmpfs;
    `snapshot_budget_bytes` is what they may take; of one that is not kept, a page of 4 KiB stays beside that. A model
    of more than `memory_budget_bytes` is copied through a file there instead of through shared memory, which holds
    training longer.

    `mode`: which snapshots are kept. "exact": all; every inner product is exact. "anchored": at most `snapshots_kept`
    of them, spread over the run; the rest is estimated from sketches, with standard errors. "sketch": the last two. A
    run that nears its budget falls over from "exact" to "anchored" by itself, and says so. `sketch`: sketch every
    checkpoint in mode "exact" too, so that runs can be compared with each other; a :class:`trajmon.SketchSpec` says
    how.

    With `torch.distributed`, every rank calls this, after wrapping the model: each records the shards that it owns.
    Where only rank 0 does, it waits a minute for the others, and then records an unsharded model alone.

    Outside ``strict=True`` nothing is raised: a run that cannot be recorded gives a recorder that does nothing,
    whose `status` says why. With ``strict=True`` raises RefusedError, or what the model has against it.
    """
    session: Session | None = None
    exchange: Exchange = LocalExchange()
    try:
        # Before anything can fail: what does fail is told to the other ranks.
        exchange = this_exchange(run)
        options = Options(
            run=run,
            server=server or os.environ.get("TRAJMON_SERVER") or None,
            tags=tuple(tags),
            resume=resume,
            home=home,
            budget_bytes=snapshot_budget_bytes,
            snapshots_in=snapshot_dir,
            memory_bytes=memory_budget_bytes,
            threads=default_threads() if agent_threads is None else agent_threads,
            mode=mode,
            keep=snapshots_kept,
            sketch=sketch,
        )
        check_options(options)
        schedule = None if every is None else _schedule(every, optimizer)
        actor = AdviceActor(model, optimizer, on_advice, advice_callback, _agreement(exchange))
        _check_copy(copy, optimizer)
        _check_plan(plan)
        try:
            if family is not None and not (family == "auto" and lies_in_runs(model)):
                views, groups = presets_for(model, family, views=views, groups=groups)
            session = _open(model, optimizer, options, groups or {}, views, exchange)
        except RanksMissingError as error:
            if exchange.rank != 0 or is_sharded(model):
                raise
            log.warning("run %r: %s. Rank 0 records the whole model alone", run, error)
            exchange = LocalExchange()
            session = _open(model, optimizer, options, groups or {}, views, exchange)
            # Alone, a rank must not change what is trained.
            actor = AdviceActor(model, optimizer)
        if copy == "overlap":
            session.overlap()
        if not exchange.all_agree(on_advice == "switch") and on_advice == "switch":
            # A rank that trains on as before while the others switch would stop them all in the next collective.
            log.warning(
                "run %r: the advice is not followed, because not every rank records and follows it", run
            )
            actor = AdviceActor(model, optimizer)
        if plan is not None and exchange.rank == 0:
            session.outlook = Outlook(plan, run)
        recorder = Recorder(session, RecorderStatus("recording"), actor=actor, strict=strict)
        if schedule is not None:
            assert optimizer is not None
            recorder.trigger_on(StepTrigger(optimizer, schedule, recorder.record_step, first_step))
        if initial and session.recorded == 0:
            recorder.checkpoint(step=0)
        return recorder
    except Exception as error:
        if session is not None:
            session.finish("recording could not begin", 0.0)
        _refuse(exchange, error)
        if strict:
            raise
        log.error("run %r is not recorded: %s; training goes on", run, error)
        return Recorder(None, RecorderStatus("refused", str(error) or repr(error)))


def _refuse(exchange: Exchange, error: Exception) -> None:
    try:
        exchange.refuse(str(error) or repr(error))
    except Exception as unheard:
        # The store is gone, and with it whoever might have waited.
        log.debug("the other ranks could not be told: %s", unheard)


def _check_copy(copy: str, optimizer: object | None) -> None:
    if copy not in get_args(CopyMode):
        raise RefusedError(f'copy={copy!r} is not one of "wait", "overlap"')
    if copy == "overlap" and optimizer is None:
        raise RefusedError('copy="overlap" needs optimizer=, whose next step must wait for the copy')


def _check_plan(plan: object) -> None:
    if not (plan is None or isinstance(plan, Plan)):
        raise RefusedError(f"plan is a {type(plan).__name__}; a trajmon.Plan is expected")


def _schedule(every: str | int | Schedule, optimizer: object | None) -> Schedule:
    if optimizer is None:
        raise RefusedError("every= needs optimizer=, whose steps are counted")
    try:
        return parse_schedule(every)
    except ValueError as error:
        raise RefusedError(f"every: {error}") from error


def _agreement(exchange: Exchange) -> StoreAgreement | None:
    return exchange.agreement() if isinstance(exchange, StoreExchange) else None


def _open(
    model: nn.Module,
    optimizer: object | None,
    options: Options,
    groups: Mapping[str, str | Sequence[str]],
    views: Sequence[View],
    exchange: Exchange,
) -> Session:
    alone = isinstance(exchange, LocalExchange)
    if alone and not is_sharded(model) and not has_shards(home_directory(options.home), options.run):
        return open_whole(model, optimizer, plan_model(model, groups=groups, views=views), options)
    return open_shard(model, optimizer, options, groups, views, exchange)
