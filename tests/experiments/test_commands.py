import json
from pathlib import Path

import pytest

from experiments import commands
from experiments.findings import edges, record


def test_a_seed_or_folder_that_cannot_be_is_refused_before_the_run(tmp_path, capsys):
    parser = commands.parser("python -m experiments.some", "some", quick="less")
    (tmp_path / "file").write_text("")
    for arguments, problem in (
        (["--seed", "-1"], "-1 is not between 0 and"),
        (["--out", str(tmp_path / "file")], "cannot make the folder"),
    ):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args(arguments)
        assert f"python -m experiments.some: error: argument {arguments[0]}: " in (said := capsys.readouterr().err)
        assert problem in said
    options = parser.parse_args(["--out", str(tmp_path / "new" / "folder"), "--seed", "3"])
    assert options.out.is_dir()
    assert options.seed == 3


def test_what_lies_at_an_edge_of_its_grid_is_named():
    assert edges({"a": 1.0, "b": 0.1, "c": 10.0}, (0.1, 1.0, 10.0)).endswith("learning rates: b (0.1), c (10).")
    assert edges({"a": 1.0, "b": 0.1}, {"a": (0.1, 1.0, 10.0), "b": (0.01, 0.1, 1.0)}) == ""


def test_a_record_says_the_command_that_gives_it_again_and_nothing_of_where_files_lie(tmp_path, capsys):
    parser = commands.parser("python -m experiments.some", "some", quick="less")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--size", default="full")
    options = parser.parse_args(["--quick", "--out", str(tmp_path), "--weights", "/home/somebody/vgg.safetensors"])
    record(options, "It is so.", {"a": 1})
    text = (tmp_path / "results.json").read_text()
    written = json.loads(text)["results"]
    assert written["command"] == "python -m experiments.some --quick --weights vgg.safetensors"
    assert written["options"]["size"] == "full"
    assert "somebody" not in text
    assert "It is so." in capsys.readouterr().out
    with pytest.raises(ValueError, match="seconds"):
        record(options, "It is so.", {"seconds": 1})
