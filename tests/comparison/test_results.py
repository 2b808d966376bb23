import csv
import json
import re
import subprocess

import numpy as np
import pytest

import jnn
from jnn.comparison import report, statistics, terminal
from jnn.comparison.errors import InputError
from jnn.comparison.rows import headline

from tiny import tiny_task

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
    assert set(content) == {"verdicts", "trials", "curves", "protocol", "environment"}
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
    assert content["protocol"]["optimizers"]["adam"]["spaces"]["learning_rate"] == {"low": 0.02, "high": 0.3, "scale": "log"}
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
    names = {f"{name}_{task}" for name in ("learning_curves", "learning_rates", "differences") for task in ("tiny", "second")}
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("svg", "pdf")
    }


def test_the_page_needs_nothing_else(comparison, folder):
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 6
    assert not re.search(r"<(script|link|img|iframe)\b", page)
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(https?:|//|file:)", page)
    assert "a&lt;b&gt;" in page
    assert "a<b>" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


def test_what_a_reader_must_know_is_noted(comparison):
    notes = "\n".join(comparison.notes())
    assert "tiny: diverged" in notes
    assert "nan 24 of 24 trials and 8 of 8 final runs" in notes
    assert re.search(r"tiny, a<b>: in [4-8] of 8 studies the best learning_rate was the one nearest the upper border", notes)


def test_the_headline_says_who_is_what_on_which_task(comparison):
    assert "nan is worse than adam on tiny, second." in headline(comparison)


def test_a_narrow_terminal_keeps_the_verdicts(comparison):
    wide, narrow = terminal.render(comparison, 110), terminal.render(comparison, 70)
    assert "95 % interval" in wide
    assert "95 % interval" not in narrow
    assert "verdict" in narrow
    assert max(map(len, narrow.splitlines())) <= 70
    assert str(comparison) == wide


def test_a_notebook_shows_the_table(comparison):
    assert comparison._repr_html_().count("<tr") == 1 + 2 * (1 + 3)


def test_results_are_not_overwritten_unless_asked(comparison, folder):
    before = (folder / "results.json").read_bytes()
    with pytest.raises(InputError, match="holds results already"):
        jnn.compare({"adam": jnn.optim.adam, "sgd": jnn.optim.sgd}, [tiny_task()], trials=1, studies=2, out=folder)
    assert (folder / "results.json").read_bytes() == before
    assert report.claim_folder(folder, overwrite=True) == folder


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        report.claim_folder(tmp_path / "file" / "below", overwrite=False)


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
    assert len(found["pictures"]) == 6
    assert all(200 < w <= width and h > 100 for w, h in found["pictures"])
