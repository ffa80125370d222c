"""Per-expert diagnostics: a known veto, a saturated expert, opposed experts, shares that add up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import experts
import poe
from poe.diagnostics import expert_report


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def expert(log_density: object, dimension: int = 1) -> poe.Expert:
    return poe.FromLogDensity(log_density, space=poe.Real(dimension))  # type: ignore[arg-type]


def within_one(x: Tensor) -> Tensor:
    return torch.where((x.abs() < 1).all(-1), 0.0, -torch.inf)


def normal(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1)


def sigmoid_far_away(x: Tensor) -> Tensor:
    return torch.nn.functional.logsigmoid(x[..., 0] + 40)


def test_the_moments_are_those_of_the_contributions() -> None:
    target = experts.Gaussian([0.0, 0.0], scale=[1.0, 2.0]) * experts.Gaussian(
        [1.0, 0.0], scale=[0.5, 3.0]
    )
    x = normals(4, 50, 2)
    said = target.contributions(x).double().flatten(0, 1)
    report = expert_report(target, x)
    torch.testing.assert_close(report.mean, said.mean(0))
    torch.testing.assert_close(report.sd, said.std(0))
    covariance = torch.cov(torch.cat([said, said.sum(1, keepdim=True)], 1).T)
    torch.testing.assert_close(report.share, covariance[:2, 2] / covariance[2, 2])
    assert report.share.sum().item() == pytest.approx(1.0)
    assert report.names == target.names


def test_the_share_of_an_outvoted_expert_is_negative() -> None:
    target = poe.Product(strong=expert(lambda x: 3 * normal(x)), weak=expert(lambda x: -normal(x)))
    report = expert_report(target, normals(4, 100, 1))
    torch.testing.assert_close(report.share, torch.tensor([1.5, -0.5]).double())


def test_who_vetoes() -> None:
    target = poe.Product(mild=expert(normal), wall=expert(within_one))
    x = normals(4, 100, 1).clamp(-0.9, 0.9)
    y = torch.linspace(-2, 2, 402)[1:-1].reshape(4, 100, 1)  # half of them beyond the wall
    report = expert_report(target, x, proposals=y)
    assert report.veto.tolist() == [0.0, 0.5]
    assert report.brake[1] >= 0.5
    assert report.words == ()  # a half is not too much; most are:
    words = expert_report(target, x, proposals=2 * y).words
    assert words[0].startswith("wall alone excludes 75% of the proposals")


def test_a_veto_of_two_is_no_one_s() -> None:
    target = poe.Product(wall=expert(within_one), other=expert(within_one))
    x = 0.1 * normals(4, 10, 1)
    assert expert_report(target, x, proposals=x + 5).veto.tolist() == [0.0, 0.0]


def test_who_brakes() -> None:
    """At x + 1 from x = 0: one falls by 1/2, one by 2, one rises."""
    target = poe.Product(
        a=expert(normal), b=expert(lambda x: 4 * normal(x)), c=expert(lambda x: x.sum(-1))
    )
    x = torch.zeros(1, 10, 1)
    assert expert_report(target, x, proposals=x + 1).brake.tolist() == [0.0, 1.0, 0.0]
    assert expert_report(target, x + 1, proposals=x).brake.tolist() == [0.0, 0.0, 1.0]
    assert expert_report(target, x, proposals=x).brake.tolist() == [0.0, 0.0, 0.0]


def test_the_default_proposals_have_the_spread_of_the_draws() -> None:
    """A wall at 3 sds, too far for the draws, meets 2.38 / √2 as wide moves in one dimension."""
    wall = expert(lambda x: torch.where(x[..., 0].abs() < 3, 0.0, -torch.inf))
    x = normals(4, 500, 1).clamp(-2.9, 2.9)
    veto = expert_report(poe.Product(mild=expert(normal), wall=wall), x).veto[1].item()
    # x + 2.38 / √2 (x' - x'') has variance 1 + 2.38²: the mass beyond three is 0.245
    assert abs(veto - 0.245) < 4 * (0.245 * 0.755 / 500) ** 0.5  # as of 500 independent ones


def test_proposals_stay_in_the_space() -> None:
    positive = poe.FromLogDensity(lambda x: -x.sum(-1), space=poe.Positive(1))
    watcher = poe.FromLogDensity(
        lambda x: torch.where((x > 0).all(-1), 0.0, -torch.inf), space=poe.Positive(1)
    )
    x = normals(4, 100, 1).exp()
    assert expert_report(poe.Product(positive, watcher), x).veto.tolist() == [0.0, 0.0]


def test_a_saturated_expert() -> None:
    target = poe.Product(prior=expert(normal), classifier=expert(sigmoid_far_away))
    report = expert_report(target, normals(4, 100, 1))
    assert report.is_saturated.tolist() == [False, True]
    # The root of the mean of 400 squares of variance 2: half their relative error.
    assert report.score_norm[0].item() == pytest.approx(1.0, abs=4 * 0.5 * (2 / 400) ** 0.5)
    [words] = report.words
    assert words.startswith("classifier is saturated")


def test_a_constant_expert_has_no_cosine() -> None:
    target = poe.Product(prior=expert(normal), flat=expert(lambda x: 0 * x.sum(-1)))
    report = expert_report(target, normals(4, 100, 1))
    assert report.is_saturated.tolist() == [False, True]
    assert report.cosine[0, 1].isnan()
    assert "nan" in str(report)


def test_who_pulls_against_whom() -> None:
    first = expert(lambda x: x[..., 0], 2)
    against = expert(lambda x: -2 * x[..., 0], 2)
    across = expert(lambda x: x[..., 1], 2)
    target = poe.Product(first=first, against=against, across=across)
    report = expert_report(target, normals(4, 100, 2))
    expected = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(report.cosine, expected.double())
    assert report.words == (
        "first and against pull against each other (mean cosine -1.00): the draws are their "
        "compromise.",
    )


def test_a_discrete_space_has_no_scores() -> None:
    field, faint = (
        poe.FromLogDensity(lambda x, w=w: w * x.sum(-1), space=poe.Binary(3)) for w in (1.0, 1e-4)
    )
    target = poe.Product(field=field, faint=faint)
    x = (normals(4, 100, 3) > 0).float()
    report = expert_report(target, x)
    assert report.score_norm.isnan().all()
    assert report.is_saturated.tolist() == [False, True]


def test_one_condition_for_each_chain() -> None:
    class Shifted(poe.Conditional):
        space = poe.Real(1)

        def log_density(self, x: Tensor, condition: Tensor) -> Tensor:
            return normal(x - condition[:, None])

    conditions = torch.arange(4.0)
    target = poe.Product(shifted=Shifted().given(conditions), prior=expert(normal))
    x = normals(4, 30, 1)
    report = expert_report(target, x)
    expected = normal(x - conditions[:, None, None]).double().mean()
    torch.testing.assert_close(report.mean[0], expected)


def test_many_draws_are_thinned() -> None:
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(len(x))
        return normal(x)

    expert_report(expert(counted), normals(10, 2000, 1))
    assert sum(calls) == 2 * 2000  # the draws, and the proposals


def test_an_expert_by_itself_is_a_product_of_one() -> None:
    report = expert_report(expert(normal), normals(4, 100, 1))
    assert report.share.tolist() == [1.0]
    assert len(str(report).splitlines()) == 2


def test_errors_say_what_was_expected() -> None:
    target = poe.Product(mild=expert(normal), wall=expert(within_one))
    x = 0.1 * normals(4, 10, 1)
    with pytest.raises(poe.ShapeError, match=r"\(chains, draws, \*\(1,\)\)"):
        expert_report(target, x[0])
    with pytest.raises(poe.ShapeError, match="one proposal for each"):
        expert_report(target, x, proposals=x[:2])
    with pytest.raises(poe.PoeError, match=r"log-densities along the draws, got .* under wall"):
        expert_report(target, x + 7)
