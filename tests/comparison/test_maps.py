import csv
import dataclasses
import re

import pytest

import jnn
from jnn.comparison.errors import InputError
from jnn.comparison.grids import verdict_map
from jnn.comparison.maps import LOOKS, map_figure, map_rows, settings, write_map
from jnn.comparison.merging import rejudge
from jnn.comparison.statistics import holm

from synthetic import synthetic
from tiny import tiny_task


@pytest.fixture(scope="module")
def grid():
    points = [(10, 4), (100, 4), (10, 8)]  # one of the grid was not run
    return [({"steps": steps, "batch_size": batch}, synthetic(("one",))) for steps, batch in points]


@pytest.fixture(scope="module")
def rows(grid):
    return map_rows(grid)


def test_p_values_are_adjusted_over_the_whole_map(grid, rows):
    assert settings(rows) == ["steps", "batch_size"]
    assert len(rows) == 3 * 3
    assert rows.p_adjusted.tolist() == holm(rows.p_value).tolist()
    alone = grid[0][1].verdicts.set_index("optimizer")
    assert rows.p_adjusted[rows.optimizer == "worse"].min() == pytest.approx(3 * alone.p_adjusted["worse"])
    assert (rows.detectable[:3].to_numpy() > alone.detectable.to_numpy()).all()
    losses = grid[0][1].finals().query("optimizer == 'adam'").test_loss
    assert rows.reference_loss.tolist() == pytest.approx([losses.mean()] * 9)


def test_verdicts_are_those_of_the_whole_map(grid):
    # a p value of 0.014 is better alone, and nothing shown beside three more that are not rejected
    trials = grid[0][1].trials.copy()
    finals = trials.phase == "final"
    reference = trials.test_loss[finals & (trials.optimizer == "adam")].to_numpy()
    noise = [0.02, 0.0, -0.12, -0.12, -0.12, -0.05, -0.05, -0.05]
    trials.loc[finals & (trials.optimizer == "same"), "test_loss"] = reference + noise
    verdicts = type(trials)(rejudge(trials[trials.optimizer.isin(["adam", "same"])], grid[0][1].protocol))
    changed = dataclasses.replace(grid[0][1], trials=trials, verdicts=verdicts)
    assert verdicts.verdict.tolist() == ["better"]
    found = map_rows([*grid, ({"steps": 100, "batch_size": 8}, changed)])
    assert found.verdict.iloc[-1] == "no difference shown"


def test_a_panel_for_each_optimizer_with_the_difference_in_each_cell(rows):
    figure = map_figure(rows, "steps", "batch_size")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == ["worse, one", "b%_<b>, one", "same, one"]
    words = [text.get_text() for text in panels[0].texts]
    share = 100 * rows.difference / rows.reference_loss
    assert words == [LOOKS["worse"][1], f"+{share[0]:.1f} %"] * 3
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["10", "100"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["4", "8"]
    assert panels[0].patches[0].get_facecolor() != panels[1].patches[0].get_facecolor()


def test_one_setting_is_one_row_and_others_are_panels(rows):
    figure = map_figure(rows, "steps")
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert "worse, one, batch size 8" in titles
    assert len(titles) == 6


def test_a_setting_that_was_not_varied_is_named(rows):
    with pytest.raises(InputError, match="no column 'width'; its settings are steps, batch_size"):
        map_figure(rows, "width")


def test_the_page_has_the_map_first_then_the_table(rows, tmp_path):
    path = write_map(rows, tmp_path / "map", "steps", "batch_size")
    page = path.read_text()
    assert page.index("<svg") < page.index("<table")
    assert page.count("<tr class=") == 9
    assert "b%_&lt;b&gt;: better in 3 of 3 cells" in page
    assert not re.search(r"<(script|link|img|iframe)\b", page)
    assert {file.name for file in path.parent.iterdir()} == {"map.html", "map.svg", "map.pdf", "map.csv"}
    with (path.parent / "map.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 9


def test_a_grid_of_comparisons_is_mapped(tmp_path):
    optimizers = {"adam": jnn.optim.adam, "sgd": jnn.optim.sgd}
    found = verdict_map(optimizers, [tiny_task()], vary={"steps": [4, 8]}, trials=1, studies=2, out=tmp_path)
    assert found.verdicts.steps.tolist() == [4, 8]
    assert found.verdicts.p_adjusted.tolist() == holm(found.verdicts.p_value).tolist()
    assert "Verdicts over steps, against adam" in (tmp_path / "map.html").read_text()
