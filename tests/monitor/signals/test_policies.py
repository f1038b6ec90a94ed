"""Policies by name, with settings given as numbers."""

from __future__ import annotations

import math

import pytest

from trajmon_server.signals import POLICIES, RemainingDisplacementPolicy, make_policy
from trajmon_server.signals.policies import DEFAULT, settings_of
from trajmon_server.signals.remaining_displacement_2 import RemainingDisplacement2Policy


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_says_its_own_name_and_is_made_by_it(name: str) -> None:
    assert make_policy(name).name == name
    for setting, kind in settings_of(name).items():
        assert kind in (int, float), setting


def test_the_default_is_what_the_server_uses() -> None:
    assert make_policy() == RemainingDisplacement2Policy()
    assert next(iter(POLICIES)) == DEFAULT == RemainingDisplacement2Policy().name


def test_without_a_version_the_newest() -> None:
    assert make_policy("remaining_displacement").name == "remaining_displacement/2"


def test_settings_are_taken() -> None:
    policy = make_policy("remaining_displacement/1", {"threshold": 0.08, "confirmations": 3.0})
    assert policy == RemainingDisplacementPolicy(threshold=0.08, confirmations=3)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "nothing",
            {},
            r"there is no policy 'nothing'; there are remaining_displacement/2, remaining_displacement/1,",
        ),
        ("remaining_displacement/3", {}, "there is no policy 'remaining_displacement/3'"),
        (
            "mds_threshold",
            {"speed": 1.0},
            "mds_threshold/1 has no setting 'speed'; it has threshold, resume_threshold",
        ),
        ("mds_threshold", {"name": 1.0}, "mds_threshold/1 has no setting 'name'"),
        ("mds_threshold", {"confirmations": 1.5}, "confirmations must be a whole number, not 1.5"),
        ("mds_threshold", {"confirmations": math.inf}, "confirmations must be a whole number, not inf"),
        ("mds_threshold", {"confirmations": math.nan}, "confirmations must be a whole number, not nan"),
        ("mds_threshold", {"threshold": 2.0}, "must be in this order between -1 and 1, not 0.9 and 2"),
        ("look_back_cosine", {"threshold": 0.5}, "must be in this order between 0 and 2, not 0.5 and 0.005"),
        ("planned_fraction", {"threshold": 1.0}, "threshold must be between 0 and 1, not 1"),
        ("update_norm_change", {"threshold": -1.0}, "must be in this order between 0 and inf"),
        ("effective_perturbation", {"decay": 0.0}, "decay must be over 0 and at most 1, not 0"),
        ("effective_perturbation", {"confirmations": 0.0}, "confirmations must be at least 1, not 0"),
    ],
)
def test_what_there_is_not_is_refused(name: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy(name, settings)
