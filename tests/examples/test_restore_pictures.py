"""Pictures are restored better than by peers, with intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest

from tests.examples.conftest import Run

pytestmark = pytest.mark.example


def test_pictures_are_restored_with_intervals_that_cover(run: Run) -> None:
    ran = run("restore_pictures", "--fast")
    row = r"camera, (.+?) +([\d.]+) +([\d.]+) \([\d.]+\) +([\d.]+)   (.+)"
    found = {task: rest for task, *rest in ran.rows(row)}
    assert len(found) == 5, ran.printed
    best = []
    for task, (seen, ours, covered, peers) in found.items():
        best.append(max(float(p.split(" (")[0].split(" ")[-1]) for p in peers.split("), ")))
        assert float(ours) > float(seen), task
        # A small picture is few independent pixels; the mean over five ways is held closer.
        assert 0.7 < float(covered) < 0.9, task
    assert 0.75 < np.mean([float(rest[2]) for rest in found.values()]) < 0.85
    # On so few pixels two ways may be as good as alike in a task; the full run is ahead in each.
    assert np.mean([float(rest[1]) for rest in found.values()]) > np.mean(best)
    assert len(ran.images()) == 25  # five ways; seen, product, width, peer, truth
    for title, image in zip(ran.titles(), ran.images(), strict=True):
        assert np.isfinite(image).all(), title
