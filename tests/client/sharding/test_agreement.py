"""What rank 0 decides, from the ranks' words alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from trajmon.errors import NoSuchRunError, OtherModelError, RunExistsError, RunOwnedError, ShardError
from trajmon.numerics.grouping import Traits
from trajmon.numerics.views import View
from trajmon.sharding.agreement import Decision, Found, TensorWord, Word, agree

LINEAR = Traits(("non_norm", "linear"), ())


def tensor(name: str, rows: int, start: int, stop: int, digest: str = "") -> TensorWord:
    return TensorWord(name, (rows, 4), "float32", (rows, 4), (start, 0), (stop - start, 4), digest, LINEAR)


def words(ranks: int, rows: int = 7, found: tuple[Found, ...] = ()) -> list[Word]:
    """FSDP-like: `rows` rows in equal pieces, the last one shorter."""
    step = -(-rows // ranks)
    return [
        Word(
            (tensor("w", rows, min(rank * step, rows), min(rank * step + step, rows), str(rank)),),
            found if rank == 0 else (),
        )
        for rank in range(ranks)
    ]


def decide(given: list[Word], resume: str = "never", views: tuple[View, ...] = ()) -> list[Decision]:
    """Through JSON both ways, as between ranks."""
    return decide_as_they_are([replace(given[0], views=views), *given[1:]], resume)


def decide_as_they_are(given: list[Word], resume: str = "never") -> list[Decision]:
    read = [Word.from_json(json.loads(json.dumps(word.to_json()))) for word in given]
    made = agree(read, "run", resume, draw_id=lambda: "ab" * 16)
    return [Decision.from_json(json.loads(json.dumps(a.to_json()))) for a in made]


def found_of(decision: Decision, **changes: Any) -> Found:
    """What a rank's folder of this decision says, after five checkpoints."""
    checkpoints = {number: (1, 10 * number, number - 1 if number else None) for number in range(5)}
    fresh = Found(
        decision.run_id,
        decision.layout.fingerprint,
        decision.cut,
        decision.first_checkpoint,
        5,
        1,
        None,
        checkpoints,
    )
    return replace(fresh, **changes)


def test_a_new_run() -> None:
    decisions = decide(words(3))
    assert {a.run_id for a in decisions} == {"ab" * 16}
    assert [(a.is_new, a.attempt, a.next_checkpoint, a.first_checkpoint, a.path) for a in decisions] == [
        (True, 1, 0, 0, ())
    ] * 3
    assert [[chunk.slices[0] for chunk in a.owned] for a in decisions] == [
        [slice(0, 3)],
        [slice(3, 6)],
        [slice(6, 7)],
    ]
    assert len({a.cut for a in decisions}) == 1


def test_the_same_cut_goes_on_in_the_same_folders() -> None:
    first = decide(words(3))[0]
    again = decide(words(3, found=(found_of(first),)), resume="allow")[0]
    assert (again.run_id, again.is_new, again.attempt) == (first.run_id, False, 2)
    assert (again.cut, again.first_checkpoint, again.next_checkpoint) == (first.cut, 0, 5)
    assert again.path == (0, 1, 2, 3, 4)
    assert again.headers[3].step == 30


def test_another_number_of_ranks_is_another_cut_from_the_next_checkpoint_on() -> None:
    first = decide(words(4))[0]
    second = decide(words(2, found=(found_of(first),)), resume="must")[0]
    assert second.cut != first.cut
    assert (second.first_checkpoint, second.next_checkpoint) == (5, 5)
    # Back to the cut of the first attempt: its folders lack what the second one recorded.
    between = found_of(second, next_checkpoint=8)
    third = decide(words(4, found=(found_of(first), between)), resume="allow")[0]
    assert third.cut not in (first.cut, second.cut)
    assert third.first_checkpoint == 8


def test_pipeline_stages_make_up_one_model_with_blocks_counted_through() -> None:
    def stage(number: int) -> Word:
        traits = Traits(("non_norm", "linear"), ((1, f"layers.{number}"),))
        return Word((replace(tensor(f"layers.{number}.w", 4, 0, 4), traits=traits),), ())

    decisions = decide([stage(0), stage(1)])
    layout = decisions[0].layout
    assert [layer.name for layer in layout.layers] == ["layers.0.w", "layers.1.w"]
    assert {group.name: group.layers for group in layout.groups if "block" in group.name} == {
        "block.00": (0,),
        "block.01": (1,),
    }
    assert [[chunk.layer for chunk in a.owned] for a in decisions] == [[0], [1]]


def test_stages_that_share_a_name_are_refused() -> None:
    other = Word((tensor("w", 9, 0, 9),), ())
    with pytest.raises(
        ShardError, match=r"layer 'w' has shape \(7, 4\) float32 on rank 0, \(9, 4\) float32 on rank 1"
    ):
        decide([Word((tensor("w", 7, 0, 7),), ()), other])
    # Of the same shape they are told apart by their values.
    same = [Word((tensor("w", 7, 0, 7, digest),), ()) for digest in ("aa", "bb")]
    with pytest.raises(ShardError, match="'w'"):
        decide(same)


def test_a_missing_stage_is_refused() -> None:
    with pytest.raises(ShardError, match="'w'"):
        decide(words(3)[:2])


def test_views_divide_the_whole_parameter() -> None:
    view = View("w", None, 0, ("a", "b", "c"))
    layout = decide(words(2, rows=6), views=(view,))[0].layout
    assert [(layer.name, layer.shape) for layer in layout.layers] == [
        ("w.a", (2, 4)),
        ("w.b", (2, 4)),
        ("w.c", (2, 4)),
    ]


def test_each_stage_declares_what_fits_its_own_layers() -> None:
    def stage(number: int) -> Word:
        name = f"layers.{number}.w"
        view = View(rf"{number}\.w$", None, 0, ("a", "b"))
        return Word((tensor(name, 4, 0, 4),), (), (view,), {"both": (rf"layers\.{number}",)})

    decisions = decide_as_they_are([stage(0), stage(1)])
    names = [layer.name for layer in decisions[1].layout.layers]
    assert names == ["layers.0.w.a", "layers.0.w.b", "layers.1.w.a", "layers.1.w.b"]
    assert next(g.layers for g in decisions[1].layout.groups if g.name == "both") == (0, 1, 2, 3)
    assert len(decisions[0].views) == 2


def test_resume_says_what_must_be_there() -> None:
    first = decide(words(2))[0]
    with pytest.raises(RunExistsError, match="run 'run' exists; continue it with resume=\"allow\""):
        decide(words(2, found=(found_of(first),)))
    with pytest.raises(NoSuchRunError, match="there is no run 'run'"):
        decide(words(2), resume="must")
    with pytest.raises(RunOwnedError, match="run 'run' is being recorded by process 77"):
        decide(words(2, found=(found_of(first, holder=77),)), resume="allow")
    with pytest.raises(OtherModelError, match="run 'run' was recorded from a model 00"):
        decide(words(2, found=(found_of(first, fingerprint="00"),)), resume="allow")
    with pytest.raises(ShardError, match="the ranks' machines have 2 runs named 'run'"):
        decide(words(2, found=(found_of(first), found_of(first, run_id="cd" * 16))), resume="allow")
