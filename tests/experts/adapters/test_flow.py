"""Flows: the adapter of nflows' own, and the conditional flow of noised images."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from nflows.distributions import (
    ConditionalDiagonalNormal,
    ConditionalIndependentBernoulli,
    DiagonalNormal,
    Distribution,
    MADEMoG,
    StandardNormal,
)
from nflows.flows import Flow as NFlow
from nflows.nn.nets import ResidualNet
from nflows.transforms import (
    AffineCouplingTransform,
    BatchNorm,
    CompositeCDFTransform,
    CompositeTransform,
    InverseTransform,
    Logit,
    LogTanh,
    LULinear,
    MaskedAffineAutoregressiveTransform,
    MaskedPiecewiseQuadraticAutoregressiveTransform,
    NaiveLinear,
    PiecewiseLinearCDF,
    PiecewiseRationalQuadraticCDF,
    PiecewiseRationalQuadraticCouplingTransform,
    PointwiseAffineTransform,
    ReversePermutation,
    Sigmoid,
    Tanh,
    Transform,
)
from torch import Tensor, nn

import experts
import poe
from experts.noised.image_flow import NoiseWhitening
from poe.testing import check_expert
from tests.seeds import seeded

Randomize = Callable[[nn.Module], None]


class Logistic(Distribution):
    """A base density that knows only the global generator."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._shape = torch.Size([size])

    def _log_prob(self, inputs: Tensor, context: None) -> Tensor:
        return (-inputs - 2 * nn.functional.softplus(-inputs)).sum(-1)

    def _sample(self, num_samples: int, context: None) -> Tensor:
        return torch.rand(num_samples, *self._shape).logit()


def masked(context: int | None = None) -> MaskedAffineAutoregressiveTransform:
    return MaskedAffineAutoregressiveTransform(2, 8, context_features=context)


def make_flow(base: Distribution | None = None) -> NFlow:
    transform = CompositeTransform([masked(), ReversePermutation(2), masked()])
    return NFlow(transform, base or StandardNormal([2]))


def points(count: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


def draws_of(expert: poe.Expert, num_samples: int, seed: int = 0) -> Tensor:
    return expert.sample(num_samples, generator=torch.Generator().manual_seed(seed))


def largest_z(values: Tensor, mean: Tensor | float) -> float:
    return ((values.mean(0) - mean) / (values.std(0) / len(values) ** 0.5)).abs().max().item()


@seeded()
def test_log_prob_is_that_of_nflows() -> None:
    flow = make_flow()
    expert, x = experts.Flow(flow), points(6, 2).float()
    assert torch.equal(expert.log_prob(x), flow.log_prob(x))
    torch.testing.assert_close(expert(x.reshape(2, 3, 2)), flow.log_prob(x).reshape(2, 3))
    assert expert.space == poe.Real(2)
    assert poe.density.capabilities.is_normalized(expert)


def coupled(tails: str | None = None) -> Transform:
    def net(num_in: int, num_out: int) -> nn.Module:
        return ResidualNet(num_in, num_out, hidden_features=4, num_blocks=1)

    mask = torch.tensor([1, 0])
    return PiecewiseRationalQuadraticCouplingTransform(mask, net, num_bins=4, tails=tails)


def shifted(shift: float | Tensor, scale: float | Tensor) -> Transform:
    return PointwiseAffineTransform(torch.as_tensor(shift), torch.as_tensor(scale))


SPACES: dict[str, tuple[Callable[[], list[Transform]], poe.Space]] = {
    "logit": (lambda: [Logit(), masked()], poe.Interval(2, 0, 1)),
    "a spline on the unit square": (lambda: [coupled(), Logit(), masked()], poe.Interval(2, 0, 1)),
    "permuted first": (
        lambda: [ReversePermutation(2), PiecewiseLinearCDF([2]), Logit()],
        poe.Interval(2, 0, 1),
    ),
    "inverse of tanh": (lambda: [InverseTransform(Tanh()), masked()], poe.Interval(2, -1, 1)),
    "grey values": (lambda: [shifted(0.0, 1 / 256), Logit(), masked()], poe.Interval(2, 0, 256)),
    "inverted as one": (
        lambda: [InverseTransform(CompositeTransform([Sigmoid(), shifted(1.0, 4.0)])), masked()],
        poe.Interval(2, 1, 5),
    ),
    "squashed and back": (
        lambda: [CompositeCDFTransform(Sigmoid(), PiecewiseRationalQuadraticCDF([2]))],
        poe.Real(2),
    ),
    "tails": (lambda: [coupled("linear"), LogTanh(), shifted(1.0, 2.0)], poe.Real(2)),
}


@pytest.mark.parametrize("name", SPACES)
@seeded()
def test_the_space_is_what_the_layers_map_to_the_reals(name: str) -> None:
    layers, space = SPACES[name]
    expert = poe.as_expert(NFlow(CompositeTransform(layers()), StandardNormal([2])).double())
    assert expert.space == space
    x = draws_of(expert, 100)
    assert space.contains(x).all()
    torch.testing.assert_close(expert(x), expert.flow.log_prob(x))
    if isinstance(space, poe.Interval):
        side = space.low + (torch.arange(300).double() + 0.5) / 300 * (space.high - space.low)
        values = expert.log_prob(torch.cartesian_prod(side, side)).exp()
        mass = values.mean() * (space.high - space.low) ** 2
        assert 0.97 < mass < 1.01  # of the midpoint rule: some of it is at the edges
        outside = x.clone()
        outside[0, 1], outside[1, 0], outside[2, 0] = space.high + 0.1, space.low - 5, torch.nan
        assert (expert(outside)[:2] == -torch.inf).all()
        assert expert(outside)[2].isnan()
        torch.testing.assert_close(expert(outside)[3:], expert(x)[3:])
        assert not expert.score(outside)[:2].any()


NO_DENSITIES: dict[str, Callable[[], list[Transform]]] = {
    "a spline without tails": lambda: [coupled()],
    "without tails, autoregressive": lambda: [
        MaskedPiecewiseQuadraticAutoregressiveTransform(2, 4)
    ],
    "a sigmoid last": lambda: [masked(), Sigmoid()],
    "a sigmoid and an affine layer": lambda: [Sigmoid(), masked()],
    "logit after a coupling of the reals": lambda: [masked(), Logit()],
    "tanh": lambda: [Tanh()],
    "an interval for each element": lambda: [shifted(0.0, torch.tensor([1.0, 2.0])), Logit()],
    "tanh before a spline of the unit square": lambda: [Tanh(), coupled(), Logit()],
}


@pytest.mark.parametrize("name", NO_DENSITIES)
@pytest.mark.parametrize("context", [None, 1])
@seeded()
def test_layers_that_make_no_density_are_refused(name: str, context: int | None) -> None:
    last = [masked(context)] if context else []
    flow = NFlow(CompositeTransform([*NO_DENSITIES[name](), *last]), StandardNormal([2]))
    with pytest.raises(poe.AdaptationError, match="no density of integral 1"):
        poe.as_expert(flow)


@seeded()
def test_a_bounded_flow_multiplies_and_is_sampled() -> None:
    flow = experts.Flow(NFlow(CompositeTransform([Logit(), masked()]), StandardNormal([2])))
    other = experts.Gaussian([1.0, 0.5], 0.3).at(nn.Identity(), flow.space)
    g = torch.Generator().manual_seed(0)
    draws = poe.sample(flow * other, 200, warmup=50, generator=g, progress=False)
    assert flow.space.contains(draws.samples).all()


@seeded()
def test_as_expert_gives_the_same() -> None:
    flow = make_flow()
    expert = poe.as_expert(flow)
    assert isinstance(expert, experts.Flow)
    assert expert.flow is flow


@pytest.mark.parametrize("base", [StandardNormal([2]), DiagonalNormal([2]), Logistic(2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@seeded()
def test_samples_come_from_the_generator_alone(base: Distribution, dtype: torch.dtype) -> None:
    expert = experts.Flow(make_flow(base)).to(dtype)
    before = torch.random.get_rng_state()
    assert draws_of(expert, 5).dtype == dtype
    assert torch.equal(draws_of(expert, 5), draws_of(expert, 5))
    assert not torch.equal(draws_of(expert, 5, 0), draws_of(expert, 5, 1))
    assert not torch.equal(expert.sample(5), expert.sample(5))
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_dtype_of_a_flow_without_parameters_is_that_of_its_transform() -> None:
    shift = torch.ones(2, dtype=torch.float64)
    flow = NFlow(PointwiseAffineTransform(shift, 2 * shift), StandardNormal([2]))
    assert experts.Flow(flow).sample(3).dtype == torch.float64
    single = NFlow(PointwiseAffineTransform(shift.float(), 2.0), StandardNormal([2]))
    assert experts.Flow(single).sample(3).dtype == torch.float32


@seeded()
def test_samples_go_back_to_the_base_density(randomize: Randomize) -> None:
    flow = make_flow(Logistic(2)).double()
    randomize(flow)
    noise = flow.transform_to_noise(draws_of(experts.Flow(flow), 20_000)).detach()
    assert largest_z(noise, 0.0) < 4
    assert largest_z(noise**2, math.pi**2 / 3) < 4


def test_the_diagonal_normal_of_nflows_is_sampled_with_its_location_and_scale() -> None:
    base = DiagonalNormal([2]).double()
    with torch.no_grad():
        base.mean_.copy_(torch.tensor([[1.0, -2.0]]))
        base.log_std_.copy_(torch.tensor([[0.5, -1.0]]))
    flow = NFlow(PointwiseAffineTransform(torch.zeros(2).double(), 1.0), base)
    x = draws_of(experts.Flow(flow), 20_000)
    assert largest_z(x, base.mean_.detach()) < 4
    assert largest_z((x - base.mean_.detach()) ** 2, (2 * base.log_std_.detach()).exp()) < 4


@pytest.mark.filterwarnings("ignore:torch.(triangular_solve|qr):UserWarning")
@seeded()
def test_naive_linear_is_refused_and_the_remedy_works() -> None:
    with pytest.raises(poe.AdaptationError, match=r"NaiveLinear.*use nflows.transforms.LULinear"):
        experts.Flow(NFlow(NaiveLinear(2), StandardNormal([2])))
    expert = experts.Flow(NFlow(LULinear(2), StandardNormal([2])).double())
    assert draws_of(expert, 3).isfinite().all()


def coupling_with_context() -> AffineCouplingTransform:
    return AffineCouplingTransform([0, 1], lambda i, o: ResidualNet(i, o, 4, context_features=3))


with seeded():
    CONTEXT_FLOWS = {
        "embedding": NFlow(masked(context=4), StandardNormal([2]), embedding_net=nn.Linear(3, 4)),
        "masked": NFlow(masked(context=3), StandardNormal([2])),
        "coupling": NFlow(coupling_with_context(), DiagonalNormal([2])),
        "base": NFlow(LULinear(2), ConditionalDiagonalNormal([2], nn.Linear(3, 4))),
    }


@pytest.mark.law
@pytest.mark.parametrize("name", CONTEXT_FLOWS)
def test_a_flow_with_a_context_is_a_conditional(name: str, randomize: Randomize) -> None:
    flow = copy.deepcopy(CONTEXT_FLOWS[name]).double()
    randomize(flow)
    conditional, x, y = poe.as_expert(flow), points(6, 2), points(6, 3) * 0.3
    assert isinstance(conditional, experts.ContextFlow)
    each = conditional.given(y)
    torch.testing.assert_close(each.log_prob(x), flow.log_prob(x, context=y))
    one = conditional.given(y[0])
    torch.testing.assert_close(one(x), flow.log_prob(x, context=y[:1].expand(6, 3)))
    torch.testing.assert_close(one(x.reshape(2, 3, 2)), one(x).reshape(2, 3))
    check_expert(one, x)
    check_expert(each, x)


def test_the_draws_given_a_context_go_back_to_its_base_density(randomize: Randomize) -> None:
    flow = copy.deepcopy(CONTEXT_FLOWS["base"]).double()
    randomize(flow)
    context = points(1, 3)[0] * 0.3
    x = draws_of(poe.as_expert(flow).given(context), 20_000)
    mean, log_std = flow._distribution._compute_params(context[None])
    z = (flow._transform(x)[0] - mean) / log_std.exp()
    assert largest_z(z.detach(), 0.0) < 4
    assert largest_z(z.detach() ** 2, 1.0) < 4


@pytest.mark.filterwarnings("ignore::poe.TrustWarning")
def test_a_bound_context_flow_multiplies_and_is_sampled() -> None:
    posterior = poe.as_expert(CONTEXT_FLOWS["masked"]).given(torch.ones(3))
    g = torch.Generator().manual_seed(0)
    product = posterior * experts.Gaussian([0.0, 0.0], scale=1.0)
    draws = poe.sample(product, 40, warmup=10, generator=g, progress=False)
    assert draws.samples.shape == (4, 10, 2)


def test_contexts_of_integers_or_without_dimensions_are_refused() -> None:
    conditional = poe.as_expert(CONTEXT_FLOWS["masked"])
    with pytest.raises(poe.DtypeError, match=r"context of floats, got torch.int64; use context"):
        conditional.given(torch.tensor([1, 0, 0]))(torch.zeros(2, 2))
    with pytest.raises(poe.ShapeError, match=r"condition of 1 dimensions, or a batch of such"):
        conditional.given(0.5)


@pytest.mark.parametrize("name", CONTEXT_FLOWS)
def test_as_an_expert_without_its_context_it_is_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(poe.AdaptationError, match=r"without context.*poe.Conditional"):
        experts.Flow(CONTEXT_FLOWS[name])


@seeded()
def test_training_mode_is_refused_where_it_matters() -> None:
    def net(inputs: int, outputs: int) -> ResidualNet:
        return ResidualNet(inputs, outputs, 4, dropout_probability=0.5)

    dropout = NFlow(AffineCouplingTransform([0, 1], net), StandardNormal([2]))
    with pytest.raises(poe.AdaptationError, match=r"evaluation mode.*\(Dropout\).*model.eval\(\)"):
        poe.as_expert(dropout)
    batch = NFlow(CompositeTransform([masked(), BatchNorm(2)]), StandardNormal([2]))
    with pytest.raises(poe.AdaptationError, match=r"_transforms.1 \(BatchNorm\)"):
        poe.as_expert(batch)
    poe.as_expert(dropout.eval())
    poe.as_expert(batch.eval())


@seeded()
def test_a_discrete_base_is_refused() -> None:
    flow = NFlow(masked(), ConditionalIndependentBernoulli([2]))
    with pytest.raises(poe.AdaptationError, match="density on the reals, got the discrete"):
        poe.as_expert(flow)


@seeded()
def test_what_has_no_shape_or_is_no_flow_is_refused() -> None:
    with pytest.raises(poe.AdaptationError, match=r"base density has a shape, got MADEMoG"):
        experts.Flow(NFlow(masked(), MADEMoG(2, 8, None)))
    with pytest.raises(poe.AdaptationError, match=r"nflows.flows.Flow, got Linear"):
        experts.Flow(nn.Linear(2, 2))


def make_image_flow(
    shape: tuple[int, ...], noise_level: float = 0.4, layers: int = 4
) -> experts.ImageFlow:
    model = experts.ImageFlow(shape, ("left", "right"), noise_level, layers=layers, hidden=6)
    model.double()
    size = math.prod(shape)
    mix = torch.eye(size).double() + 0.5 * torch.ones(size, size).double().tril()
    model.whitening.fit((points(200, size) @ mix + 0.5).reshape(200, *shape))
    return model


def fill_gently(model: nn.Module, randomize: Randomize) -> None:
    """Random, yet as smooth as a quadrature over a few thousand points needs."""
    randomize(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)


@pytest.mark.parametrize("label", ["left", "right"])
@seeded()
def test_two_pixels_integrate_to_one_and_have_the_moments_of_the_samples(
    label: str, randomize: Randomize, check_two_pixels: Callable[[poe.Expert], None]
) -> None:
    model = make_image_flow((1, 2), layers=2)
    fill_gently(model, randomize)
    check_two_pixels(model.given(label))


@seeded()
def test_the_density_counts_the_whole_jacobian(randomize: Randomize) -> None:
    """Whitening, couplings and permutations against autograd's Jacobian."""
    model = make_image_flow((2, 3))
    randomize(model)
    x = points(1, 2, 3)
    condition = torch.tensor([[1.0, 0.4]], dtype=torch.float64)

    def to_noise(x: Tensor) -> Tensor:
        return model.flow._transform(x, model.flow._embedding_net(condition))[0]

    jacobian = torch.autograd.functional.jacobian(to_noise, x).reshape(6, 6)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(to_noise(x)).sum()
    expected = normal + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(model.given("right").log_prob(x)[0], expected)


@seeded()
def test_the_transform_is_inverted(randomize: Randomize) -> None:
    model = make_image_flow((2, 3))
    randomize(model)
    x, condition = points(5, 2, 3), torch.tensor([[0.0, 0.4]]).double().expand(5, 2)
    context = model.flow._embedding_net(condition)
    noise, log_det = model.flow._transform(x, context)
    back, log_det_back = model.flow._transform.inverse(noise, context)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(log_det_back, -log_det)


def test_whitening_makes_the_covariance_of_noised_data_the_identity() -> None:
    whitening = NoiseWhitening((2, 2)).double()
    mix = torch.eye(4).double() + torch.ones(4, 4).double().tril()
    data = (points(50, 4) @ mix + 3).reshape(50, 2, 2)
    whitening.fit(data)
    level = torch.full((50, 1), 0.5, dtype=torch.float64)
    whitened, log_det = whitening(data, level)
    covariance = data.flatten(1).T.cov()
    jacobian = whitening.axes.T / whitening.scale(level)[0, :, None]
    noised = jacobian @ (covariance + 0.25 * torch.eye(4).double()) @ jacobian.T
    torch.testing.assert_close(noised, torch.eye(4).double())
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(jacobian).logabsdet)
    torch.testing.assert_close(whitened.mean(0), torch.zeros(4).double())
    torch.testing.assert_close(whitening.inverse(whitened, level)[0], data)


@seeded()
def test_the_constructor_is_the_same_every_time_up_to_its_weights() -> None:
    first, second = (dict(make_image_flow((2, 3)).named_buffers()) for _ in range(2))
    assert any("permutation" in name for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)


@seeded()
def test_a_batch_of_labels_is_each_label_alone(randomize: Randomize) -> None:
    model = make_image_flow((2, 2))
    randomize(model)
    x, labels = points(2, 2, 2), torch.tensor([1, 0])
    alone = torch.stack([model.given("right")(x[0]), model.given("left")(x[1])])
    torch.testing.assert_close(model.given(labels)(x), alone)
    mixed = draws_of(model.given(labels), 2)
    torch.testing.assert_close(mixed[0], draws_of(model.given("right"), 2)[0])
    torch.testing.assert_close(mixed[1], draws_of(model.given("left"), 2)[1])
    assert not torch.allclose(mixed[1], draws_of(model.given("right"), 2)[1])


@seeded()
def test_seeds_precision_and_device() -> None:
    model = make_image_flow((2, 2))
    expert, x = model.given("left"), points(3, 2, 2)
    before = torch.random.get_rng_state()
    assert torch.equal(draws_of(expert, 3), draws_of(expert, 3))
    assert not torch.equal(expert.sample(3), expert.sample(3))
    assert torch.equal(before, torch.random.get_rng_state())
    assert draws_of(expert, 3).dtype == expert(x).dtype == torch.float64
    single = copy.deepcopy(model).float().given("left")
    assert draws_of(single, 3).dtype == torch.float32
    torch.testing.assert_close(single(x.float()), expert(x).float(), rtol=1e-4, atol=1e-4)
    assert expert(x[:0]).shape == (0,)
    assert expert(x.reshape(3, 1, 2, 2)).shape == (3, 1)
    assert expert.to("meta")(torch.empty(3, 2, 2, device="meta")).shape == (3,)
