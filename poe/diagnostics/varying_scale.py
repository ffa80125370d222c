"""Temporary."""

import torch

from poe.core.affine import fit_affine


def has_varying_scale(position, score):
    position = position.reshape(-1, *position.shape[-1:])
    score = score.reshape(position.shape)
    a = fit_affine(position, None)
    s = a.pull_score(score)
    d = s.shape[1]
    v = s.square().mean(1).log()
    q = torch.quantile(v, torch.tensor([0.05, 0.95], dtype=v.dtype))
    ref = (
        torch.distributions.Gamma(d / 2, 0.5 * d)
        .sample((1000,))
        .log()
        .quantile(torch.tensor([0.05, 0.95]))
    )
    return bool((q[1] - q[0]) > 2.0 * (ref[1] - ref[0]))
