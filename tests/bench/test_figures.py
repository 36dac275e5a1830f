"""The arithmetic of the benchmarks: a wrong median or verdict would be believed."""

import pytest

from bench.figures import Figure, Measure, Sense, Target, Verdict, percentile, spread
from bench.report import document, number, ranged, table


def rate(ours: tuple[float, ...], limits: tuple[float, ...] = (), target: Target | None = None) -> Figure:
    return Figure("reads", "/s", Sense.RATE, ours, "as stated", limits, "bare", target)


def cost(ours: tuple[float, ...], target: Target) -> Figure:
    return Figure("memory", "MB", Sense.COST, ours, "as stated", target=target)


def test_a_spread_is_the_median_between_the_least_and_the_greatest_round() -> None:
    found = spread([5.0, 1.0, 3.0, 100.0, 4.0])

    assert (found.median, found.low, found.high) == (4.0, 1.0, 100.0)


def test_a_spread_of_no_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        spread([])


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0), (0.001, 1.0)]
)
def test_a_percentile_is_a_measured_value_by_nearest_rank(share: float, expected: float) -> None:
    values = [float(value) for value in range(100, 0, -1)]

    assert percentile(values, share) == expected


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 0.0), ([1.0], 1.5)])
def test_a_percentile_of_nothing_is_refused(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="no percentile"):
        percentile(values, share)


def test_a_ratio_is_formed_within_its_round() -> None:
    # The machine was ten times slower in the second round, for both.
    figure = rate((500.0, 50.0, 900.0), (1000.0, 100.0, 1000.0))

    assert figure.ratios == (0.5, 0.5, 0.9)
    assert spread(figure.ratios).median == 0.5


def test_rounds_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        _ = rate((1.0, 2.0), (1.0,)).ratios


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (rate((50.0,), (100.0,), Target("half", bound=0.5)), Verdict.YES),
        (rate((49.0,), (100.0,), Target("half", bound=0.5)), Verdict.NO),
        (rate((49.0,), (), Target("half", bound=0.5)), Verdict.UNKNOWN),
        (rate((49.0,), (1.0,), Target("as a peer")), Verdict.UNKNOWN),
        (rate((49.0,), (1.0,)), Verdict.UNKNOWN),
        (cost((149.0, 151.0, 150.0), Target("memory", Measure.VALUE, 150.0)), Verdict.YES),
        (cost((149.0, 151.0, 152.0), Target("memory", Measure.VALUE, 150.0)), Verdict.NO),
    ],
)
def test_the_median_decides_whether_a_target_is_reached(figure: Figure, verdict: Verdict) -> None:
    assert figure.verdict is verdict


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234567.8, "1,234,568"), (100.4, "100"), (99.94, "99.9"), (9.876, "9.88"), (0.0, "0.00")],
)
def test_numbers_have_three_significant_digits_and_no_more(value: float, text: str) -> None:
    assert number(value) == text


def test_a_single_round_has_no_range() -> None:
    assert ranged((2.0,), "ms") == "2.00 ms"
    assert ranged((2.0, 4.0, 3.0), "ms") == "3.00 ms (2.00\u20134.00)"
    assert ranged((0.5, 0.25), "%", 100) == "37.5 % (25.0\u201350.0)"


def test_the_table_has_a_line_for_each_figure_with_what_it_judges() -> None:
    figures = [
        rate((500.0, 600.0), (1000.0, 1000.0), Target("half", bound=0.5)),
        cost((200.0,), Target("at most 150 MB", Measure.VALUE, 150.0)),
    ]

    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(figures).splitlines()]

    assert lines[2] == [
        "reads",
        "550 /s (500\u2013600)",
        "\u2013",
        "bare: 1,000",
        "55.0 % (50.0\u201360.0)",
        "half",
        "yes",
    ]
    assert lines[3] == ["memory", "200 MB", "\u2013", "\u2013", "\u2013", "at most 150 MB", "no"]


def test_the_document_keeps_the_values_of_every_round() -> None:
    figure = rate((500.0, 600.0), (1000.0, 1200.0), Target("half", bound=0.5))

    kept = document({"reads": [figure]}, {"cores": "2"}, {"rounds": 2}, {})

    assert kept["machine"] == {"cores": "2"}
    (line,) = kept["figures"]
    assert (line["group"], line["name"], line["verdict"]) == ("reads", "reads", "yes")
    assert (line["ours"], line["limits"], line["ratios"]) == ((500.0, 600.0), (1000.0, 1200.0), (0.5, 0.5))
