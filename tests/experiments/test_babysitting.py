import numpy as np
import pytest

from experiments import babysitting, faults
from jnn.diagnoses import Diagnosis, Finding

pytestmark = pytest.mark.slow


def test_every_break_is_found_and_the_healthy_set_up_has_none(quick):
    results = quick("babysitting", ["diagnoses"])
    assert len(results["setups"]) == 11
    for name, several in results["setups"].items():
        found = faults.SETUPS[name].found
        for one in several:
            assert not found or found in one["flagged"], name
            assert not one["foreign"], name
    assert not results["setups"]["healthy"][0]["flagged"]


def test_a_diagnosis_is_right_where_it_finds_the_break_and_nothing_that_does_not_follow():
    setup = faults.Setup("something", "labels", ("loss curve",), objective=None)

    def judged(*names):
        findings = [Finding(name, name not in names, 0.0, "") for name in ("labels", "loss curve", "inputs")]
        return babysitting.judged(setup, Diagnosis(tuple(findings)))

    assert judged("labels", "loss curve")["right"]
    assert not judged("loss curve")["right"]
    assert judged("labels", "inputs") == {
        "flagged": ["inputs", "labels"], "foreign": ["inputs"], "skipped": [], "right": False
    }  # fmt: skip


def test_damage_is_what_it_says():
    rng = np.random.default_rng(0)
    labels = np.arange(1000, dtype=np.int32) % 10
    images = rng.random((1000, 8, 8, 1)).astype(np.float32)
    whole = (images, labels)
    (same, wrong), _ = faults.mislabelled(rng, whole, whole)
    assert np.sum(wrong != labels) == 200
    assert same is images
    _, (copies, _) = faults.leaked(rng, (images, labels), (images + 1, labels))
    assert np.sum((copies == images).all(axis=(1, 2, 3))) == 250
    (twice, same_labels), _ = faults.repeated(rng, whole, whole)
    assert len(np.unique(twice, axis=0)) == 900
    source = [np.flatnonzero((images == one).all(axis=(1, 2, 3)))[0] for one in twice]
    np.testing.assert_array_equal(labels[source], same_labels)
    (_, rare), _ = faults.unbalanced(rng, whole, whole)
    counts = np.bincount(rare)
    assert counts[8:].max() < 20
    assert counts.sum() == 1000
    mixed = np.asarray(faults.mixed(images[:4].reshape(4, 64)))
    assert sorted(mixed.ravel()) == sorted(images[:4].ravel())
