import importlib
import json

import pytest

from jnn.data import MissingDataError


@pytest.fixture
def quick(tmp_path):
    """Runs experiments.NAME with --quick, and returns its results; with the pictures that it must leave, by name."""

    def run(name, pictures=(), *arguments):
        module = importlib.import_module(f"experiments.{name}")
        try:
            results = module.main(["--quick", "--out", str(tmp_path), *arguments])
        except MissingDataError as error:
            pytest.skip(str(error))
        written = json.loads((tmp_path / "results.json").read_text())
        assert len(written["results"]["finding"]) > 80
        assert {**written["results"], **json.loads(json.dumps(results))} == written["results"]
        for picture in pictures:
            assert (tmp_path / f"{picture}.png").stat().st_size > 5_000
            assert (tmp_path / f"{picture}.svg").read_text().startswith("<?xml")
        return results

    return run
