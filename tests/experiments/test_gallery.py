import json

import pytest

from experiments import commands, gallery
from jnn.comparison.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What an experiment wrote, and a gallery of its own."""
    monkeypatch.setattr(gallery, "RESULTS", tmp_path / "kept")
    out = tmp_path / "out"
    out.mkdir()
    results = {"finding": "All is well.", "seconds": 130.0, "options": {"experiment": "linear_classifier", "quick": False}}
    results["command"] = "python -m experiments.linear_classifier --seed 1"
    environment = {"date": "2026-01-02T03:04:05+00:00", "device": {"kind": "cpu"}, "machine": {"cores": 2}}
    (out / "results.json").write_text(json.dumps({"results": results, "environment": environment}))
    (out / "templates.png").write_bytes(b"a picture")
    return out


def test_the_page_is_what_is_recorded():
    assert all((gallery.RESULTS / f"{name}.{kind}").exists() for name in gallery.PICTURES for kind in ("json", "png"))
    assert (gallery.HERE / "README.md").read_text() == gallery.page()


@pytest.mark.parametrize("name", gallery.PICTURES)
def test_every_script_begins_with_its_question(name):
    assert gallery.question(name).endswith("?")


def test_an_entry_has_question_finding_picture_and_command(folder):
    gallery.keep(folder)
    text = gallery.page()
    assert f"**{gallery.question('linear_classifier')}**\n\nAll is well.\n" in text
    assert "](results/linear_classifier.png)" in text
    assert "`python -m experiments.linear_classifier --seed 1` (2 min on cpu, 2 cores; 2026-01-02)" in text
    assert f"- [linear_classifier](#linear_classifier): {gallery.question('linear_classifier')}\n" in text
    assert (gallery.RESULTS / "linear_classifier.png").read_bytes() == b"a picture"


def test_a_folder_without_results_is_one_sentence(tmp_path, capsys):
    assert commands.exit_code(lambda: gallery.main([str(tmp_path)])) == 2
    assert "holds no results of an experiment" in capsys.readouterr().err


def test_what_is_not_whole_is_refused_and_nothing_copied(folder):
    (folder / "templates.png").rename(folder / "other.png")
    with pytest.raises(InputError, match="lacks the picture templates"):
        gallery.keep(folder)
    record = json.loads((folder / "results.json").read_text())
    record["results"]["options"]["quick"] = True
    (folder / "results.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="was run with --quick"):
        gallery.keep(folder)
    assert not gallery.RESULTS.exists()
