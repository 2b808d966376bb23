import itertools

import numpy as np
import pytest
import sklearn.metrics

from experiments import ensembles

pytestmark = pytest.mark.slow


def predictions(count=8, n=60, classes=4):
    draw = np.random.default_rng(0)
    return draw.dirichlet(np.ones(classes), (count, n)).astype(np.float32), draw.integers(0, classes, n).astype(np.int32)


def test_an_ensemble_is_better_than_its_members(quick):
    results = quick("ensembles", ["ensembles"])
    found = results["ensembles"]
    assert list(found) == ["1", "2", "4"]
    assert [len(values["accuracy"]) for values in found.values()] == [4, 2, 1]
    # the cross-entropy of a mean of predictions is never above the mean of theirs: Jensen's inequality
    assert found["4"]["cross_entropy"][0] < np.mean(found["2"]["cross_entropy"]) < np.mean(found["1"]["cross_entropy"])
    assert found["4"]["accuracy"][0] > 60
    assert 0 < results["disagreement"] < 60
    assert results["all_agree"]["accuracy"] > found["4"]["accuracy"][0]
    assert results["time_ratio"] > 0


def test_scores_are_scikit_learns():
    members, labels = predictions()
    found = ensembles.scores(members, labels)
    for i, one in enumerate(members.astype(float)):
        np.testing.assert_allclose(
            found["accuracy"][i], 100 * sklearn.metrics.accuracy_score(labels, one.argmax(-1)), rtol=1e-5
        )
        np.testing.assert_allclose(
            found["cross_entropy"][i], sklearn.metrics.log_loss(labels, one / one.sum(-1, keepdims=True)), rtol=1e-4
        )


def test_ensembles_are_disjoint_means():
    members, labels = predictions()
    found = ensembles.ensembles(members, labels)
    pairs = np.stack([members[i : i + 2].mean(axis=0) for i in (0, 2, 4, 6)])
    assert found[2] == ensembles.scores(pairs, labels)
    assert [len(values["accuracy"]) for values in found.values()] == [8, 4, 2, 1]


def test_disagreement_is_the_mean_over_all_pairs():
    members, _ = predictions()
    said = members.argmax(axis=-1)
    expected = 100 * np.mean([np.mean(a != b) for a, b in itertools.combinations(said, 2)])
    np.testing.assert_allclose(ensembles.disagreement(members), expected, rtol=1e-6)
