"""Measures of edits on worlds whose answers are known."""

import numpy as np
import pytest

from facevae.evaluation.editing import class_gaps, measure_edits

STRENGTHS = (0.5, 1.0, 2.0)
GAPS = np.array([4.0, 2.0, 1.0])


def measures(before, moves, *, targets=(0, 1), seen=(0, 1, 2)):
    """Edits that move logits by `moves` [T,A] gaps per strength, towards the other answer."""
    before = np.array(before, np.float32)
    way = np.where(before[:, targets] > 0, -1, 1)
    change = way[:, :, None] * np.array(moves) * GAPS
    target = np.stack(
        [
            before[:, [k]] + np.array(STRENGTHS) * change[:, place, [k]]
            for place, k in enumerate(targets)
        ],
        axis=1,
    )
    after = before[:, None] + change
    identity = np.full(change.shape[:2], 0.75)
    parts = (part.astype(np.float32) for part in (target, after, identity))
    return measure_edits(before, *parts, targets=targets, strengths=STRENGTHS, gaps=GAPS, seen=seen)


def test_an_edit_that_moves_its_target_alone():
    found = measures([[-1, 1, 0.5], [-3, -1, 0.5], [3, 1, 0.5]], [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(found.success, 1)
    np.testing.assert_allclose(found.moved, [[1, 0, 0], [0, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(found.leakage, 0, atol=1e-6)
    np.testing.assert_allclose(found.identity, 0.75)
    # Logits -1, -3, 3 turn after 1/4, 3/4, 3/4 of a gap of 4; 1, -1, 1 after half of one of 2.
    np.testing.assert_allclose(found.flip_strength, [0.75, 0.5], atol=1e-6)


def test_leakage_is_of_the_others_that_the_judge_sees():
    moves = [[1, 0.5, 9], [-0.25, 1, 9]]
    found = measures([[-1, -1, 1]], moves, seen=(0, 1))
    np.testing.assert_allclose(found.leakage, [0.5, 0.25])
    np.testing.assert_allclose(found.moved, moves, atol=1e-6)
    found = measures([[-1, -1, 1]], moves)
    np.testing.assert_allclose(found.leakage, [(0.5 + 9) / 2, (0.25 + 9) / 2], rtol=1e-6)
    assert np.isnan(measures([[-1, -1, 1]], moves, seen=(0,)).leakage[0])


def test_edits_that_do_nothing_and_edits_that_only_some_faces_follow():
    found = measures([[-3, 1, 0], [-5, -1, 0], [-30, 1, 0]], [[1, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(found.success, [1 / 3, 0])
    assert found.flip_strength[0] == pytest.approx(1.25)  # the middle one of 0.75, 1.25, never
    assert np.isnan(found.flip_strength[1])


def test_gaps_are_between_images_with_and_without():
    logits = np.array([[1, 5], [3, 7], [-2, 9], [100, 9]], np.float32)
    labels = np.array([[1, 1], [1, 1], [-1, 1], [0, 1]], np.int8)
    gaps = class_gaps(logits, labels)
    assert gaps[0] == 4
    assert np.isnan(gaps[1])
