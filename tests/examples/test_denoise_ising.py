"""Pictures are denoised better than by filters that are not told the noise either."""

from __future__ import annotations

import numpy as np
import pytest

from tests.examples.conftest import Run

pytestmark = pytest.mark.example


def test_denoising_beats_what_is_not_told_the_noise_either(run: Run) -> None:
    ran = run("denoise_ising", "--fast")
    names = "noisy|most probable|posterior mean|belief|median|opening"
    table = ran.table(names, r"[^0-9\n]* ([\d.]+) +([\d.]+) +([\d.]+)")
    assert len(table) == 6, ran.printed
    for ours in ("most probable", "posterior mean", "belief"):
        for theirs in ("noisy", "median", "opening"):
            pairs = zip(table[ours], table[theirs], strict=True)
            assert all(mine < other for mine, other in pairs), (ours, theirs)
    for learned in ran.rows(r".*flip probability ([\d.]+),.*"):
        assert 0.07 < float(learned) < 0.13  # 0.1 in truth, and the prior is not quite right
    images = np.array(ran.figure.axes).reshape(3, 5)
    for line in images:
        noisy, best, mean, flipped, _ = (np.asarray(axis.images[0].get_array()) for axis in line)
        assert set(np.unique(best)) == {False, True}
        np.testing.assert_allclose(flipped, np.abs(mean - noisy))
