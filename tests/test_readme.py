"""The README's code runs as it stands there, and so do its commands (with a smaller budget)."""

import json
import operator
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import jnn
from jnn import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CANDIDATE, COMPARING, NETWORKS, LONG = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(CANDIDATE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_custom_optimizer_is_compared_by_the_command(mine, capsys):
    program, *arguments = shlex.split(COMMANDS[1])
    assert program == "jnn"
    assert cli.main([*arguments, "--tasks", "digits-linear", "--trials", "2", "--studies", "2", "--out", "out"]) == 0
    assert "sign_momentum" in capsys.readouterr().out


def test_the_python_call_runs(mine):
    run = subprocess.run([sys.executable, "-c", COMPARING], capture_output=True, text=True, cwd=mine)
    assert run.returncode == 0, run.stderr
    assert "mine" in run.stdout


def test_the_network_example_learns():
    run = subprocess.run([sys.executable, "-c", NETWORKS], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    slow, fast = map(float, run.stdout.strip("[]\n ").split())
    assert slow < fast
    assert fast > 0.85


def test_a_long_run_goes_on_by_the_same_call(tmp_path):
    first, again = (
        subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, cwd=tmp_path) for _ in range(2)
    )
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    losses = list(map(float, first.stdout.strip("[]\n ").split()))
    assert losses[0] > losses[-1]
    assert "step 1,000 of 1,000" in first.stderr
    assert (again.stdout, again.stderr) == (first.stdout, "")


def test_the_two_lines_set_up_an_environment_of_their_own():
    first, tests = COMMANDS[0], COMMANDS[-1]
    assert first.endswith("&& pip install -e . && jnn compare")
    assert tests.endswith("&& pip install -e '.[test]' && pytest")
    for line in (first, tests):
        assert line.startswith("python3 -m venv .venv && . .venv/bin/activate && ")
        assert "\n" not in line


def test_every_link_of_the_readme_leads_to_a_file():
    for target in re.findall(r"\]\((?!http)(.*?)\)", README):
        assert (ROOT / target).exists(), target


def test_every_name_of_the_readme_is_there():
    names = set(re.findall(r"\bjnn((?:\.[a-z_]+)+)", README))
    assert len(names) > 20
    for name in names:
        operator.attrgetter(name[1:])(jnn)


def test_the_figures_are_those_that_were_recorded():
    def recorded(name, folder="benchmarks/results"):
        return json.loads((ROOT / "experiments" / folder / f"{name}.json").read_text())["results"]

    seconds = recorded("compare_defaults")["seconds"]
    assert f"{seconds['median']:.0f} s ({seconds['least']:.1f} to {seconds['most']:.1f})" in README
    for found in recorded("sweep").values():
        ratio = found["speedup"]["loop"]
        assert f"| {ratio['median']:.1f} ({ratio['least']:.1f} to {ratio['most']:.1f}) |" in README
    for name, found in recorded("steps")["workloads"].items():
        shares = found["ratio"][found["fastest_jax_peer"]], found["ratio"]["torch"], found["in_fit"], found["in_sweep"]
        first, *rest = (f"{r['median']:.2f} ({r['least']:.2f} to {r['most']:.2f})" for r in shares)
        assert f"| {name} | {first}, {found['fastest_jax_peer']} | {' | '.join(rest)} |" in README
    text = " ".join(README.split())
    for row in recorded("calibration", "results")["rows"]:
        share, low, high = (f"{100 * row[f'false_verdicts_{end}']:.1f} %" for end in ("share", "low", "high"))
        assert f"{share} on `{row['task']}` ({low} to {high})" in text
    promised = [row["found_low"] <= row["promised_power"] <= row["found_high"] for row in recorded("power", "results")["rows"]]
    assert f"all {len(promised)} intervals contain the promise" in text
    assert all(promised)
