"""Apex angles of the cones that the trajectory opens at the initialization and at the origin."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajmon_server.hallmarks.directions import angle_degrees, defined_length, triangle_angle_degrees
from trajmon_server.hallmarks.standard_errors import angle_error_degrees, cosine_error
from trajmon_server.hallmarks.trajectory import Trajectory

__all__ = [
    "apex_angle_initialization_degrees",
    "apex_angle_initialization_error",
    "apex_angle_origin_degrees",
    "apex_angle_origin_error",
]


def apex_angle_initialization_degrees(trajectory: Trajectory) -> NDArray[np.float64]:
    """∠(θ_t−θ_0, θ_1−θ_0) in degrees: [t], 0 at 1, NaN at 0 and where a displacement is zero or undefined.

    From the exact products, as accurate as the update angle. Source: Hallmarks, sec. 2(ii).
    """
    values = np.full(len(trajectory), np.nan)
    squares = trajectory.displacement_squared
    values[1:] = angle_degrees(trajectory.displacement_dot[1:], squares[1:], squares[1:2])
    return values


def apex_angle_origin_degrees(trajectory: Trajectory) -> NDArray[np.float64]:
    """∠(θ_t, θ_0) in degrees: [t], 0 at 0, NaN where a checkpoint is zero or undefined.

    Taken from the triangle (origin, θ_0, θ_t) with the exact ‖θ_t−θ_0‖ as third side: the cosine of two
    vectors that differ by 1e-7 has no digit left, the triangle has nine. Source: Hallmarks, sec. 2(ii).
    """
    norms = trajectory.squared_norms
    return triangle_angle_degrees(norms, norms[:1], trajectory.displacement_squared)


def apex_angle_initialization_error(
    angle: NDArray[np.float64],
    squared: tuple[NDArray[np.float64], NDArray[np.float64]],
    first_squared: tuple[float, float],
    dot_error: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Standard error of ∠(θ_t−θ_0, θ_1−θ_0) in degrees, at most: [n].

    `squared` and `first_squared` are ‖θ_t−θ_0‖² and ‖θ_1−θ_0‖² with their standard errors. At checkpoint 1, whose
    angle with itself is exact, it is for the caller to say 0.
    """
    in_cosine = cosine_error(np.cos(np.deg2rad(angle)), dot_error, squared, first_squared)
    return angle_error_degrees(angle, in_cosine)


def apex_angle_origin_error(
    angle: NDArray[np.float64],
    squared_norms: NDArray[np.float64],
    start_square: float,
    displacement_error: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Standard error of ∠(θ_t, θ_0) in degrees: [n]; `displacement_error` is that of ‖θ_t−θ_0‖²."""
    legs = defined_length(squared_norms) * defined_length(start_square)
    return angle_error_degrees(angle, displacement_error / (2 * legs))
