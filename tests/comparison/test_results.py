import csv
import dataclasses
import json
import re
import subprocess

import numpy as np
import pytest

import jnn
from jnn import plots
from jnn.comparison import figures, report, statistics, terminal
from jnn.comparison.errors import InputError
from jnn.comparison.results import Comparison
from jnn.comparison.rows import certainty, headline, title

from synthetic import synthetic
from tiny import tiny_task

OVER_TASKS = {"scores", "score_profile", "steps_profile", "seconds_profile"}
SPACES = {"adam": {"learning_rate": jnn.log_uniform(0.02, 0.3)}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("out") / "report"


@pytest.fixture(scope="module")
def comparison(folder):
    def stuck(learning_rate):  # on the upper border, where it helps least
        return jnn.optim.sgd(1e-3 * learning_rate)

    def nan(learning_rate):
        return jnn.optim.sgd(learning_rate * np.nan)

    optimizers = {"adam": jnn.optim.adam, "a<b>": stuck, "nan": nan}
    return jnn.compare(optimizers, [tiny_task(), tiny_task("second", steps=8)], spaces=SPACES, trials=3, studies=8, out=folder)


def test_the_tables_have_the_columns_that_are_promised(comparison):
    promised = ["task", "optimizer", "reference", "difference", "low", "high", "p_value", "p_adjusted", "detectable", "verdict"]
    assert comparison.verdicts.columns.tolist() == promised
    assert len(comparison.verdicts) == 4
    trials = ["task", "optimizer", "study", "phase", "trial", "hyperparameters", "validation_loss", "test_loss", "diverged"]
    assert set(trials) <= set(comparison.trials.columns)
    assert comparison.trials.phase.value_counts().to_dict() == {"tune": 2 * 3 * 8 * 3, "final": 2 * 3 * 8}
    assert set(comparison.curves) == {(task, name) for task in ("tiny", "second") for name in ("adam", "a<b>", "nan")}
    assert comparison.curves["tiny", "adam"]["training"].shape == (8, 4)


def test_tuning_rows_hold_no_test_scores(comparison):
    tuning = comparison.trials[comparison.trials.phase == "tune"]
    assert tuning[["test_loss", "test_accuracy"]].isna().all(axis=None)


def test_the_final_row_names_the_trial_that_won(comparison):
    tuned = comparison.trials[(comparison.trials.phase == "tune") & ~comparison.trials.diverged]
    best = tuned.loc[tuned.groupby(["task", "optimizer", "study"]).validation_loss.idxmin()]
    finals = comparison.finals().set_index(["task", "optimizer", "study"])
    for row in best.itertuples():
        final = finals.loc[row.task, row.optimizer, row.study]
        assert (final.trial, final.hyperparameters) == (row.trial, row.hyperparameters)


def test_results_json_holds_everything(comparison, folder):
    content = json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)
    assert set(content) == {"verdicts", "trials", "curves", "protocol", "environment", "targets", "timing"}
    losses = {
        name: [
            row["test_loss"]
            for row in content["trials"]
            if (row["task"], row["optimizer"], row["phase"]) == ("tiny", name, "final")
        ]
        for name in ("adam", "nan")
    }
    again = statistics.paired_t(losses["nan"], losses["adam"])
    row = next(row for row in content["verdicts"] if (row["task"], row["optimizer"]) == ("tiny", "nan"))
    np.testing.assert_allclose([row["difference"], row["p_value"]], [again.difference, again.p_value], rtol=1e-5)
    assert content["curves"]["tiny"]["nan"]["training"][0][-1] is None
    assert content["protocol"]["optimizers"]["adam"]["spaces"]["learning_rate"]["high"] == 0.3
    assert re.fullmatch("[0-9a-f]{64}", content["protocol"]["optimizers"]["nan"]["source_sha256"])
    assert {"jax", "jnn", "optax", "python"} <= set(content["environment"]["versions"])
    assert content["protocol"]["seed"] == 0


def test_trials_csv_is_the_table_of_trials(comparison, folder):
    with (folder / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(comparison.trials)
    assert json.loads(rows[0]["hyperparameters"]) == comparison.trials.hyperparameters[0]
    np.testing.assert_allclose(float(rows[-1]["test_loss"]), comparison.trials.test_loss.iloc[-1])


def test_every_figure_is_there_as_svg_and_pdf(comparison, folder):
    by_task = ("learning_curves", "learning_rates", "expected_best", "differences")
    names = {f"{name}_{task}" for name in by_task for task in ("tiny", "second")} | OVER_TASKS
    files = {f"{name}.{kind}" for name in names for kind in ("svg", "pdf")} | {"captions.md"}
    assert {path.name for path in (folder / "figures").iterdir()} == files
    captions = (folder / "figures" / "captions.md").read_text()
    assert all(name in captions for name in names)


def test_the_page_needs_nothing_else(comparison, folder):
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 12
    assert not re.search(r"<(script|link|img|iframe)\b", page)
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(https?:|//|file:)", page)
    assert "a&lt;b&gt;" in page
    assert "a<b>" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


def test_what_a_reader_must_know_is_noted(comparison):
    notes = "\n".join(comparison.notes())
    assert "tiny: diverged" in notes
    assert "nan 24 of 24 trials and 8 of 8 final runs" in notes
    assert re.search(r"tiny, a<b>: in [6-8] of 8 studies the best learning_rate was the one nearest the upper border", notes)


def test_the_best_of_four_that_are_equally_good_is_often_at_a_border():
    one = synthetic(("one",), trials=4, studies=8)
    assert not [note for note in one.notes() if "border" in note]


def test_the_headline_says_who_is_what_on_which_task(comparison):
    assert "nan is worse than adam on tiny, second." in headline(comparison)


def test_many_tasks_are_counted_and_many_optimizers_sorted():
    tasks, names = tuple("abcde"), ("adam", "worse", "b%_<b>")
    assert headline(synthetic(tasks, names))[0] == "worse is worse than adam on all 5 tasks."
    many = synthetic(("a", "b"))
    others = {f"{verdict}{i}": verdict for i in range(2) for verdict in ("better", "worse", "mixed", "neither")}
    rows = [
        {"task": task, "optimizer": name, "verdict": {"mixed": mixed, "neither": "equivalent"}.get(verdict, verdict)}
        for task, mixed in (("a", "better"), ("b", "worse"))
        for name, verdict in others.items()
    ]
    optimizers = dict.fromkeys(["adam", *others])
    many = dataclasses.replace(many, verdicts=type(many.verdicts)(rows), protocol=many.protocol | {"optimizers": optimizers})
    assert title(many) == "8 optimizers against adam"
    assert headline(many) == [
        "Better than adam on a task and worse on none: better0 (2 of 2 tasks), better1 (2 of 2 tasks).",
        "Worse than adam on a task and better on none: worse0 (2 of 2 tasks), worse1 (2 of 2 tasks).",
        "Better on one task and worse on another: mixed0, mixed1.",
        "Neither better nor worse on any task: neither0, neither1.",
    ]


def test_unequal_budgets_are_the_first_thing_said(tmp_path):
    one = synthetic(("one",))
    budgets = {"worse": {"trials": 16, "steps": 50}, "same": {"trials": 8, "steps": 60}}
    unequal = dataclasses.replace(one, protocol=one.protocol | {"budgets": budgets})
    words = "Unequal budgets, as was asked for: worse had 16 trials and 50 steps; same had 8 trials and 60 steps."
    assert headline(unequal)[0] == words
    page = report.page(unequal, [])
    assert page.index(words) < page.index("<table")
    assert "Every optimizer has the same number of trials" not in page
    assert "Every optimizer has the same number of trials" in report.page(one, [])
    assert "budgets" not in headline(one)[0]


def test_budgets_that_were_asked_for_are_in_the_protocol():
    optimizers = {"adam": jnn.optim.adam, "sgd": jnn.optim.sgd}
    trials = {"adam": 1, "sgd": 2}
    found = jnn.compare(optimizers, [tiny_task(steps=4, points=2)], trials=trials, steps=8, unequal=True, studies=2)
    assert found.protocol["budgets"] == {"adam": {"trials": 1}, "sgd": {"trials": 2}}
    assert headline(found)[0] == "Unequal budgets, as was asked for: adam had 1 trial; sgd had 2 trials."
    assert found.environment["trainings"] == 4 * 2 + 2 * 3  # the reference's separate studies too


def test_how_sure_names_the_detectable_differences():
    one = synthetic()
    losses = one.finals().query("optimizer == 'adam'").groupby("task").test_loss.mean()
    shares = sorted(100 * row.detectable / losses[row.task] for row in one.verdicts.itertuples())
    assert f"over 6 comparisons the chance of any false better or worse is held at 5 %; a difference of {shares[0]:.1f}" in (
        certainty(one)
    )
    assert f" to {shares[-1]:.1f} %" in certainty(one)


@pytest.mark.parametrize("measured", [True, False])
def test_a_report_can_be_rebuilt_from_its_results(tmp_path, measured):
    one = synthetic(("one", "two")[: 1 + measured], measured=measured)
    report.write_report(one, tmp_path / "first")
    report.write_report(Comparison.load(tmp_path / "first"), tmp_path / "second")
    first, second = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("first", "second")
    )
    assert first == second
    assert len(first) >= 14
    assert ("steps to target" in (tmp_path / "first" / "report.html").read_text()) == measured


def test_what_was_not_finite_comes_back(comparison, folder):
    again = Comparison.load(folder / "results.json")
    assert again.to_json() == (folder / "results.json").read_text() == comparison.to_json()
    assert again.trials.dtypes.equals(comparison.trials.dtypes)
    assert again.trials.equals(comparison.trials)
    assert np.isnan(again.curves["tiny", "nan"]["training"][0, -1])
    assert report.page(again, []) == report.page(comparison, [])


def test_results_without_targets_and_timing_are_read():
    content = json.loads(synthetic(measured=False).to_json())
    del content["targets"], content["timing"]
    assert Comparison.from_json(json.dumps(content)).timing == {}


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "results.json: this is not a comparison's results.json: Expecting value"),
        ("[]", "it has no verdicts, trials, curves, protocol, environment"),
        ('{"verdicts": [], "trials": [], "curves": {}}', "it has no protocol, environment"),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError) as error:
        Comparison.load(tmp_path)
    assert words in str(error.value)


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"results.json cannot be read: No such file"):
        Comparison.load(tmp_path)


def test_a_task_that_is_solved_exactly_has_a_report(tmp_path):
    one = synthetic(("one",))
    trials = one.trials.assign(test_loss=one.trials.test_loss.where(one.trials.optimizer != "adam", 0.0))
    solved = dataclasses.replace(one, trials=trials)
    assert report.write_report(solved, tmp_path / "out").folder
    assert "+inf %" in str(solved)


def test_one_trial_and_one_task_leave_out_what_they_cannot_show(tmp_path):
    report.write_report(synthetic(("one",), trials=1, measured=False), tmp_path / "out")
    names = {path.stem.removesuffix("_one") for path in (tmp_path / "out" / "figures").glob("*.svg")}
    assert names == {"learning_curves", "learning_rates", "differences"}


def test_a_report_takes_away_its_own_outdated_figures_and_nothing_else(tmp_path):
    pictures = tmp_path / "figures"
    pictures.mkdir()
    (pictures / "mine.svg").write_text("mine")
    report.write_report(synthetic(("one", "two"), measured=False), tmp_path)
    assert (pictures / "differences_two.svg").exists()
    report.write_report(synthetic(("one",), measured=False), tmp_path)
    assert sorted(path.name for path in pictures.glob("*_*.*")) == [
        f"{name}_one.{kind}"
        for name in ("differences", "expected_best", "learning_curves", "learning_rates")
        for kind in ("pdf", "svg")
    ]
    assert (pictures / "mine.svg").read_text() == "mine"


@pytest.mark.parametrize("letters", [8, 20, 27, 33, 45])
def test_no_name_in_a_legend_is_cut(letters):
    with plots.style():
        figure, axes = figures._axes("", "", "")
        for i in range(12):
            axes.plot([0, 1], [0, i], label=f"{i:02d}" + (letters - 2) * "e")
        figures._legend(figure, axes)
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_as_many_optimizers_as_optax_has_are_told_apart():
    one = synthetic(("one",))
    names = ["adam", *map(str, range(46))]
    many = dataclasses.replace(one, protocol=one.protocol | {"optimizers": dict.fromkeys(names)})
    assert len({str(figures._line(many, name)) for name in names}) == len(names)


def test_a_narrow_terminal_keeps_the_verdicts(comparison):
    wide, narrow = terminal.render(comparison, 110), terminal.render(comparison, 70)
    assert "95 % interval" in wide
    assert "95 % interval" not in narrow
    assert "verdict" in narrow
    assert max(map(len, narrow.splitlines())) <= 70
    assert str(comparison) == wide


def test_a_notebook_shows_the_table(comparison):
    assert comparison._repr_html_().count("<tr") == 1 + 2 * (1 + 3)


def _chromium():
    import shutil

    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(_chromium() is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_verdicts_and_pictures_without_scrolling_sideways(comparison, folder, tmp_path, width):
    measured = """<script>
    const box = e => e.getBoundingClientRect();
    document.title = JSON.stringify({
      overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      first: box(document.querySelector("td.verdict")),
      pictures: [...document.querySelectorAll("svg")].map(e => [box(e).width, box(e).height]),
      text: document.querySelector("tr.worse td.verdict").innerText});
    </script></body>"""
    page = tmp_path / "page.html"
    page.write_text((folder / "report.html").read_text().replace("</body>", measured))
    command = [_chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},800", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = re.search("<title>(.*?)</title>", dom)
    assert title is not None
    found = json.loads(title.group(1).replace("&quot;", '"'))
    assert found["overflow"] <= 0
    assert found["text"] == "worse"
    assert found["first"]["right"] <= width
    assert len(found["pictures"]) == 12
    assert all(200 < w <= width and h > 100 for w, h in found["pictures"])
