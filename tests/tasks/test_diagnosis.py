"""AUC, sensitivity and accuracy against scikit-learn, with ties, padding and missing classes."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from fedrecon.tasks import classification_metrics

metrics = jax.jit(classification_metrics, static_argnames="specificity")
SIZE = 24


def batch_of(label, valid=None):
    return {"label": np.asarray(label), "valid": np.ones(len(label), bool) if valid is None else valid}


def two_logits(scores):
    return np.stack([np.zeros_like(scores), scores], -1).astype(np.float32)


@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(0, SIZE - 3))
def test_binary_metrics_equal_sklearn_with_ties_and_padding(seed, levels, padding):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-levels, levels, SIZE) / 4
    label = rng.integers(0, 2, SIZE)
    label[:2] = 0, 1
    valid = np.arange(SIZE) < SIZE - padding
    got = metrics(two_logits(scores), batch_of(label, valid))
    scores, label = scores[valid], label[valid]
    np.testing.assert_allclose(got["auc"][0] / got["auc"][1], roc_auc_score(label, scores), rtol=1e-5)
    assert got["auc"][1] == label.sum() * (1 - label).sum()
    fpr, tpr, _ = roc_curve(label, scores, drop_intermediate=False)
    np.testing.assert_allclose(got["sensitivity"], (tpr[fpr <= 0.1 + 1e-9].max() * label.sum(), label.sum()))
    np.testing.assert_allclose(got["accuracy"], (((scores > 0) == label).sum(), len(label)))


@given(st.integers(0, 10**6))
def test_many_classes_are_taken_one_against_the_rest(seed):
    rng = np.random.default_rng(seed)
    logits, label = rng.normal(size=(SIZE, 3)).astype(np.float32), np.arange(SIZE) % 3
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    want = np.mean([roc_auc_score(label == c, probabilities[:, c]) for c in range(3)])
    won, pairs = metrics(logits, batch_of(label))["auc"]
    np.testing.assert_allclose(won / pairs, want, rtol=1e-5)


def test_ten_negatives_allow_one_false_positive():
    scores = np.concatenate([np.arange(10.0), [8.5, 9.5, 7.5]])
    label = np.concatenate([np.zeros(10, int), np.ones(3, int)])
    assert metrics(two_logits(scores), batch_of(label))["sensitivity"] == (2, 3)
    assert metrics(two_logits(scores), batch_of(label), specificity=1.0)["sensitivity"] == (1, 3)
    assert metrics(two_logits(scores), batch_of(label), specificity=0.0)["sensitivity"] == (3, 3)


def test_a_client_without_one_class_counts_no_pairs():
    for label in (np.zeros(5, int), np.ones(5, int)):
        got = metrics(two_logits(np.arange(5.0)), batch_of(label))
        assert got["auc"] == (0, 0) and got["sensitivity"][0] == 0
    assert got["sensitivity"] == (0, 0)


def test_confident_logits_do_not_saturate_into_ties():
    scores = np.array([40.0, 50.0, 60.0, 70.0])
    assert metrics(two_logits(scores), batch_of([0, 1, 0, 1]))["auc"] == (3, 4)
