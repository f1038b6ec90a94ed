"""Pictures: colours that mean equal steps, pixels that tell the truth, curves that lose no peak."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from trajmon.plot.blocks import ticks
from trajmon.plot.colors import SWITCH_RGB, UNDEFINED_RGB, Scale, choose_scale, colormap, to_rgb
from trajmon.plot.curves import curve_lines
from trajmon.plot.figure import Picture, map_figure, overview_figure
from trajmon.plot.modes import Span, norm_only_spans, span_words, switch_positions
from trajmon.plot.terminal import count_undefined, legend, map_lines, resample


def relative_luminance(colors: np.ndarray) -> np.ndarray:
    """WCAG 2, from 8-bit sRGB: independent of the space that the colormap is made in."""
    encoded = colors / 255.0
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    luminance: np.ndarray = linear @ np.array([0.2126, 0.7152, 0.0722])
    return luminance


def test_colormap_darkens_in_equal_steps() -> None:
    lightness = 116 * np.cbrt(relative_luminance(colormap(256))) - 16
    steps = -np.diff(lightness[::15])
    assert steps.min() > 0
    assert steps.max() / steps.min() < 2
    assert lightness[0] > 95
    assert lightness[-1] < 16


def test_undefined_is_unlike_every_colour() -> None:
    others = np.vstack([colormap(256), SWITCH_RGB]).astype(int)
    assert np.abs(others - np.array(UNDEFINED_RGB)).max(axis=1).min() > 60


def test_a_switch_is_seen_on_every_colour() -> None:
    distance = np.abs(colormap(256).astype(int) - np.array(SWITCH_RGB)).max(axis=1)
    assert distance.min() > 60


def test_undefined_and_ends_have_their_colours() -> None:
    colors = to_rgb(np.array([np.nan, -5.0, 0.0, 1.0, 5.0]), Scale(0.0, 1.0))
    table = colormap()
    np.testing.assert_array_equal(colors, [UNDEFINED_RGB, table[0], table[0], table[-1], table[-1]])


@pytest.mark.parametrize(
    ("kind", "low", "expected"),
    [("fixed", None, Scale(0.2, 1.0)), ("fitted", None, Scale(0.2, 0.6)), ("fixed", 0.0, Scale(0.0, 1.0))],
)
def test_scales(kind: str, low: float | None, expected: Scale) -> None:
    entries = np.array([[1.0, 0.2, np.nan], [0.2, 1.0, 0.6], [np.nan, 0.6, 1.0]])
    assert choose_scale(entries, "fixed" if kind == "fixed" else "fitted", low) == expected


@pytest.mark.parametrize("entries", [np.full((3, 3), np.nan), np.empty((0, 0))])
def test_scale_of_nothing(entries: np.ndarray) -> None:
    assert choose_scale(entries) == Scale(0.0, 1.0)


def test_equal_entries_are_all_dark() -> None:
    entries = np.ones((3, 3))
    assert (to_rgb(entries, choose_scale(entries)) == colormap()[-1]).all()


@given(t=st.integers(1, 200), side=st.integers(1, 64), seed=st.integers(0, 99))
def test_pixels_keep_the_mean_and_the_order(t: int, side: int, seed: int) -> None:
    entries = np.random.default_rng(seed).random((t, t))
    result = resample(entries, side)
    k = len(result.pixels)
    assert 1 <= k <= side
    assert result.pixels.min() >= entries.min() - 1e-12
    assert result.pixels.max() <= entries.max() + 1e-12
    if t <= side:
        assert k == t * (side // t)
        np.testing.assert_array_equal(result.pixels[:: side // t, :: side // t], entries)
    starts = [i * t // side for i in range(side)] + [t]
    if t > side:
        # Against the mean of each block, written out.
        for row, column in ((0, 0), (side - 1, 0), (side // 2, side - 1)):
            block = entries[starts[row] : starts[row + 1], starts[column] : starts[column + 1]]
            assert result.pixels[row, column] == pytest.approx(block.mean(), abs=1e-12)


def test_a_pixel_is_undefined_from_half_of_its_entries_on() -> None:
    entries = np.ones((4, 4))
    entries[0] = entries[:, 0] = np.nan
    pixels = resample(entries, 2).pixels
    # Three of the first four are undefined, two of the next; the others have one value each.
    np.testing.assert_array_equal(pixels, [[np.nan, np.nan], [np.nan, 1.0]])
    assert count_undefined(entries) == 1


@given(count=st.integers(0, 100_000), most=st.integers(1, 12))
def test_ticks_are_few_round_and_inside(count: int, most: int) -> None:
    found = ticks(count, most)
    assert len(found) <= most
    assert all(0 <= tick < count for tick in found)
    assert found[:1] == ([0] if count else [])
    if len(found) > 1:
        assert str(found[1]).rstrip("0") in ("1", "2", "5")


def test_axis_shows_the_numbers_of_checkpoints_not_their_positions() -> None:
    checkpoint = np.array([0, 3, 4, 9])
    lines = [line.plain for line in map_lines(np.eye(4), checkpoint, Scale(0, 1), 24, color=False)]
    assert [line.split("-")[0].strip() for line in lines[:12] if "-" in line[:4]] == ["0", "3", "4", "9"]
    assert lines[-2].split() == ["0", "3", "4", "9"]


def test_legend_names_undefined_only_if_there_is_any() -> None:
    entries = np.eye(3)
    assert legend(entries, Scale(0, 1), color=False).plain == "cosine 0.00 .:-=+*%#@ 1.00"
    entries[0, 1] = np.nan
    assert legend(entries, Scale(0, 1), color=False).plain.endswith(" 1.00   ? undefined")
    assert (
        legend(entries, Scale(0.99, 1), color=True).plain
        == "cosine 0.990 ████████████████ 1.000   █ undefined"
    )


def test_a_rising_line_in_plain_signs() -> None:
    assert curve_lines(np.array([0.0, 1.0, 2.0]), 3, 3, dots=False) == ["  *", " **", "**"]


@given(
    t=st.integers(0, 300),
    width=st.integers(2, 60),
    height=st.integers(1, 5),
    dots=st.booleans(),
    seed=st.integers(0, 50),
)
def test_curves_fit_their_room(t: int, width: int, height: int, dots: bool, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(t)
    values[values > 1.5] = np.nan
    lines = curve_lines(values, width, height, dots)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    drawn = any(sign not in " ⠀" for line in lines for sign in line)
    assert drawn == bool(np.isfinite(values).any())


def test_one_peak_among_many_checkpoints_is_not_lost() -> None:
    values = np.zeros(1000)
    values[617] = 1.0
    lines = curve_lines(values, 20, 4, dots=False)
    assert lines[0].strip() == "*"
    assert lines[0].index("*") == 617 * 20 // 1000


def test_gaps_stay_gaps() -> None:
    lines = curve_lines(np.array([1.0, np.nan, np.nan, 1.0]), 4, 1, dots=False)
    assert lines == ["*  *"]


def test_switches_stand_where_a_curve_leaves_room() -> None:
    values = np.array([0.0, 0.0, 1.0, 1.0])
    assert curve_lines(values, 4, 2, dots=False, switches=[2]) == [" |**", "***"]
    assert curve_lines(values, 2, 1, dots=True, switches=[2]) == curve_lines(values, 2, 1, dots=True)
    many = np.zeros(1000)
    many[999] = 1.0
    above = curve_lines(many, 20, 2, dots=True, switches=[100, 750])[0]
    assert [i for i, sign in enumerate(above) if sign == "│"] == [2, 15]


@given(mode=st.lists(st.integers(0, 3), max_size=40))
def test_spans_and_switches_tell_the_modes(mode: list[int]) -> None:
    array = np.array(mode, dtype=np.uint8)
    spans = norm_only_spans(array)
    inside = {i for span in spans for i in range(span.start, span.stop)}
    assert inside == {i for i, one in enumerate(mode) if one == 1}
    assert all(left.stop < right.start for left, right in itertools.pairwise(spans))
    edges = {edge for span in spans for edge in (span.start, span.stop)}
    assert switch_positions(array) == sorted(edges - {0, len(mode)})


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ([Span(0, 5)], "checkpoints 10 to 50"),
        ([Span(2, 3)], "checkpoint 30"),
        ([Span(0, 1), Span(2, 4)], "checkpoints 10, 30 to 40"),
        ([Span(0, 1), Span(2, 3), Span(4, 5)], "checkpoints 30, 50, and 1 span before"),
    ],
)
def test_spans_in_words_by_the_numbers_of_checkpoints(spans: list[Span], words: str) -> None:
    assert span_words(spans, np.array([10, 20, 30, 40, 50]), most=2) == words


@pytest.mark.parametrize("t", [3, 40, 500])
def test_lines_of_switches_keep_the_size_of_the_map(t: int) -> None:
    mode = (np.arange(t) == t - 2).astype(np.uint8)
    for color in (False, True):
        arguments = (np.ones((t, t)), np.arange(t), Scale(0, 1), 30, color)
        plain, marked = map_lines(*arguments), map_lines(*arguments, mode)
        # One line more, the bar, and that one not empty even for one checkpoint of 500.
        assert len(marked) == len(plain) + 1
        assert marked[-3].plain.strip(" ") != ""
        assert [line.cell_len for line in marked[:-3]] == [line.cell_len for line in plain[:-2]]
        assert [line.plain for line in map_lines(*arguments, np.zeros(t, dtype=np.uint8))] == [
            line.plain for line in plain
        ]


def texts(figure: Figure) -> list[str]:
    # A set, because artists of a part of a figure are found twice.
    return [artist.get_text() for artist in set(figure.findobj(Text))]


def test_figure_says_what_it_shows() -> None:
    entries = np.array([[1.0, np.nan], [np.nan, np.nan]])
    title = "evil $x_{$ \x1b[31m \u4e2d"
    picture = Picture(
        title, entries, np.array([0, 7]), Scale(0, 1), 0.5, "ω₃", "cosine similarity about checkpoint 3"
    )
    hallmarks = {
        "checkpoint": np.array([0.0, 7.0]),
        "mds": np.array([1.0, 0.5]),
        "update_norm": np.full(2, np.nan),
    }
    figure = overview_figure(picture, hallmarks)
    found = texts(figure)
    assert "evil $x_{$ □[31m □   ω₃ = 0.500" in found
    assert "cosine similarity about checkpoint 3" in found
    assert found.count("undefined") == 4  # three panels, and the legend of the map
    assert "MDS" in found
    figure.savefig("/dev/null", format="png")


def test_figure_draws_where_training_switched() -> None:
    mode = np.array([1, 0, 0, 1, 1, 0], dtype=np.uint8)
    checkpoint = np.array([0, 1, 2, 5, 6, 8])
    picture = Picture("r", np.eye(6), checkpoint, Scale(0, 1), 0.5, mode=mode)
    hallmarks = {
        "checkpoint": checkpoint.astype(float),
        "mds": np.linspace(1, 0.5, 6),
        "mode": mode.astype(float),
    }
    figure = overview_figure(picture, hallmarks)
    crimson = "#" + bytes(SWITCH_RGB).hex()
    on_map, *on_curves = (axis for axis in figure.axes if axis.get_xlabel() == "checkpoint" or axis.lines)
    drawn = [np.asarray(line.get_xydata()) for line in on_map.lines if line.get_color() == crimson]
    upright = sorted(float(line[0, 0]) for line in drawn if line[0, 0] == line[1, 0])
    level = sorted(float(line[0, 1]) for line in drawn if line[0, 0] == 0)
    # Between the entries on the map, and halfway between the numbers on the curves.
    assert upright == level == [0.5, 2.5, 4.5]
    bars = [line[:, 0].tolist() for line in drawn if line[0, 1] == 1.008]
    assert bars == [[-0.5, 0.5], [2.5, 4.5]]
    assert len(on_curves) == 4
    for axis in on_curves:
        lines = [line for line in axis.lines if line.get_color() == crimson]
        assert [float(np.asarray(line.get_xdata())[0]) for line in lines] == [0.5, 3.5, 7.0]
        shades = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
        assert [to_hex(patch.get_facecolor()) for patch in shades] == [crimson] * 2
        assert [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in shades] == [
            (-0.5, 0.5),
            (3.5, 7.0),
        ]
    found = texts(figure)
    assert "norm-only training: checkpoints 0, 5 to 6" in found
    assert "norm-only training" in found
    assert "norm-only training: checkpoints 0, 5 to 6" in texts(map_figure(picture))
    figure.savefig("/dev/null", format="png")


def test_figure_without_norm_only_training_has_no_key_of_it() -> None:
    picture = Picture("r", np.eye(2), np.arange(2), Scale(0, 1), 0.5, mode=np.zeros(2, dtype=np.uint8))
    hallmarks = {"checkpoint": np.arange(2.0), "mds": np.ones(2), "mode": np.zeros(2)}
    assert not any("norm-only" in text for text in texts(overview_figure(picture, hallmarks)))


def test_figure_without_checkpoints() -> None:
    picture = Picture("r", np.empty((0, 0)), np.empty(0, dtype=np.int64), Scale(0, 1), float("nan"))
    found = texts(map_figure(picture))
    assert "no checkpoints" in found
    assert "r   ω = undefined" in found
