"""Compositions in TOML files: what they come to, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributions import Independent, Laplace

import experts
import poe
from poe.cli.composition import CompositionError, read

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "compositions"
GAUSSIAN = 'kind = "Gaussian"\nloc = [0.0]\nscale = [1.0]\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "some.toml"
    path.write_text(text, encoding="utf-8")
    return path


def points(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_product_is_that_of_the_python_expression(tmp_path: Path) -> None:
    text = f"[experts.a]\n{GAUSSIAN}exponent = 2\n[experts.b]\n"
    text += 'kind = "Gaussian"\nloc = [1.0]\nscale = [0.5]\nexponent = -0.5\n'
    composition = read(written(tmp_path, text))
    a, b = experts.Gaussian([0.0], scale=[1.0]), experts.Gaussian([1.0], scale=[0.5])
    assert composition.exponents == {"a": 2.0, "b": -0.5}
    product, x = composition.product(), points(5, 1)
    assert product.names == ("a", "b")
    torch.testing.assert_close(product(x), (a**2 / b**0.5)(x))


def test_and_nests_in_or_and_or_in_and() -> None:
    left, right = (experts.Gaussian([m, 0.0], scale=[0.5, 1.0]) for m in (-2.0, 2.0))
    upper = experts.Gaussian([0.0, 1.0], scale=[3.0, 0.5])
    expected = poe.Mixture([left, right], [0.25, 0.75]) * upper
    x = points(5, 2)
    torch.testing.assert_close(read(EXAMPLES / "either_or.toml").product()(x), expected(x))


def test_and_inside_or_with_exponents_and_estimates(tmp_path: Path) -> None:
    text = f"""
[experts.x.or.both.and.a]
{GAUSSIAN}
[experts.x.or.both.and.b]
kind = "Laplace"
loc = [1.0]
scale = [1.0]
exponent = 0.5
[experts.x.or.both]
log_partition = -1.25
[experts.x.or.other]
{GAUSSIAN}
exponent = 2
"""
    a = experts.Gaussian([0.0], scale=[1.0])
    b = poe.as_expert(Independent(Laplace(torch.tensor([1.0]), torch.tensor([1.0])), 1))
    expected = poe.Mixture([a * b**0.5, a**2], log_partitions=[-1.25, None])
    x = points(5, 1)
    torch.testing.assert_close(read(written(tmp_path, text)).product()(x), expected(x))


@pytest.mark.parametrize(
    ("given", "density_ratio"), [("left", False), ("right", True), ("any", False)]
)
def test_a_shipped_conditional(tmp_path: Path, given: str, density_ratio: bool) -> None:
    text = f'[experts.slant]\nshipped = "digits-slant"\ngiven = "{given}"\nnoise_level = 0.3\n'
    text += f"density_ratio = {str(density_ratio).lower()}\n"
    slant = experts.load("digits-slant").at_noise_level(0.3)
    base = experts.DensityRatio(slant) if density_ratio else slant
    expected = slant.marginal() if given == "any" else base.given(given)
    x = points(3, 16, 16)
    torch.testing.assert_close(read(written(tmp_path, text)).product()(x), expected(x))


def test_a_shipped_product_at_another_noise_level(tmp_path: Path) -> None:
    text = '[experts.prior]\nshipped = "digits-prior"\nnoise_level = 0.3\n'
    product = read(written(tmp_path, text)).product()
    expected = experts.noised.at_noise_level(experts.load("digits-prior"), 0.3)
    x = points(2, 16, 16)
    torch.testing.assert_close(product(x), expected(x))
    assert product.names == ("prior.slant", "prior.thickness")


def test_a_saved_folder_is_found_from_the_file(tmp_path: Path) -> None:
    poe.save(experts.Gaussian([0.0], scale=[3.0]), tmp_path / "kept")
    poe.save(experts.load("digits-slant"), tmp_path / "slant")
    product = read(written(tmp_path, '[experts.a]\nsaved = "kept"\n')).product()
    assert product(torch.zeros(1, 1)).item() == pytest.approx(-2.0176, abs=1e-3)
    conditional = '[experts.a]\nsaved = "slant"\ngiven = "left"\n'
    assert read(written(tmp_path, conditional)).product().space == poe.Real((16, 16))


def test_an_expert_may_have_any_name(tmp_path: Path) -> None:
    text = f'[experts.self]\n{GAUSSIAN}[experts."a b"]\n{GAUSSIAN}[experts.experts]\n{GAUSSIAN}'
    assert read(written(tmp_path, text)).product().names == ("self", "a b", "experts")


@pytest.mark.parametrize("kind", ["Gaussian", "Laplace", "Beta", "Gamma", "Bernoulli"])
def test_kinds_live_on_arrays(kind: str, tmp_path: Path) -> None:
    parameters = {
        "Gaussian": "loc = [0, 1]\nscale = [1, 2]",
        "Laplace": "loc = [0.0, 1.0]\nscale = 2",
        "Beta": "concentration1 = [1, 2]\nconcentration0 = [3, 4]",
        "Gamma": "concentration = [1.0, 2.0]\nrate = [1.0, 1.0]",
        "Bernoulli": "logits = [0.0, -1.0]",
    }
    text = f'[experts.a]\nkind = "{kind}"\n{parameters[kind]}\n'
    assert read(written(tmp_path, text)).product().space.event_shape == (2,)


def test_a_family_of_experts_goes_before_that_of_torch(tmp_path: Path) -> None:
    text = '[experts.a]\nkind = "Gamma"\nconcentration = [1.0]\nrate = [1.0]\n'
    assert isinstance(read(written(tmp_path, text)).experts["a"], experts.Gamma)


REFUSED = {
    "no TOML": ("[experts.a\n", "some.toml: is no TOML file: "),
    "nothing": ("", "some.toml: experts: expected a table that is not empty"),
    "no expert": ("[experts]\n", "experts: expected a table that is not empty"),
    "odd top": ("expert = 1\n", "some.toml: expert: unknown key; expected one of title, experts"),
    "no table": ("[experts]\na = 3\n", "experts.a: expected a table that is not empty, got 3"),
    "no way": (
        "[experts.a]\nexponent = 1\n",
        "experts.a: expected one of shipped, saved, kind, and, or, got none of them",
    ),
    "two ways": (
        '[experts.a]\nkind = "Gaussian"\nshipped = "digits-vae"\n',
        "experts.a: expected one of shipped, saved, kind, and, or, got shipped and kind of them",
    ),
    "unknown expert": (
        '[experts.a]\nshipped = "digits"\n',
        "experts.a.shipped: expected one of the shipped experts digits-class, digits-prior, ",
    ),
    "wrong label": (
        '[experts.a]\nshipped = "digits-slant"\ngiven = "up"\n',
        "experts.a.given: expected one of the labels left, upright, right, between; got 'up'",
    ),
    "number for a label": (
        '[experts.a]\nshipped = "digits-class"\ngiven = 7\n',
        "experts.a.given: expected one of the labels 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, any; got 7",
    ),
    "no label": (
        '[experts.a]\nshipped = "digits-slant"\n',
        "experts.a.given: this expert is conditional: expected one of the labels left, ",
    ),
    "label of no conditional": (
        '[experts.a]\nshipped = "digits-prior"\ngiven = "7"\n',
        "experts.a.given: this expert is no conditional: leave the key out",
    ),
    "no noise level": (
        '[experts.a]\nshipped = "fashion-energy"\nnoise_level = 0.3\n',
        "experts.a.noise_level: expected an expert with noise levels",
    ),
    "bad noise level": (
        '[experts.a]\nshipped = "digits-slant"\ngiven = "left"\nnoise_level = -1\n',
        "experts.a.noise_level: expected a positive noise level, got -1.0",
    ),
    "odd key": (
        '[experts.a]\nshipped = "digits-slant"\nlabel = "left"\n',
        "experts.a.label: unknown key; expected one of shipped, exponent, weight, log_partition, "
        "given, noise_level, density_ratio",
    ),
    "no flag": (
        '[experts.a]\nshipped = "digits-slant"\ngiven = "left"\ndensity_ratio = 1\n',
        "experts.a.density_ratio: expected true or false, got 1",
    ),
    "no folder": ('[experts.a]\nsaved = "gone"\n', "experts.a.saved: expected a saved expert at "),
    "unknown kind": (
        '[experts.a]\nkind = "Gausian"\n',
        "experts.a.kind: expected one of Bernoulli, Beta, ",
    ),
    "unknown parameter": (
        '[experts.a]\nkind = "Gaussian"\nloc = [0.0]\nsd = [1.0]\n',
        "experts.a.sd: Gaussian has no such parameter; expected some of loc, scale, covariance, "
        "precision",
    ),
    "parameter of torch": (
        '[experts.a]\nkind = "Laplace"\nmean = 0.0\nscale = 1.0\n',
        "experts.a.mean: Laplace has no such parameter; expected some of loc, scale",
    ),
    "missing parameter": ('[experts.a]\nkind = "Laplace"\nloc = 0.0\n', "experts.a: "),
    "bad parameter": (
        '[experts.a]\nkind = "Laplace"\nloc = 0.0\nscale = -1.0\n',
        "experts.a: Expected parameter scale",
    ),
    "bad exponent": (
        f"[experts.a]\n{GAUSSIAN}exponent = true\n",
        "experts.a.exponent: expected a finite number, got True",
    ),
    "infinite exponent": (
        f"[experts.a]\n{GAUSSIAN}exponent = inf\n",
        "experts.a.exponent: expected a finite number, got inf",
    ),
    "spaces": (
        f'[experts.a]\n{GAUSSIAN}[experts.b]\nkind = "Gaussian"\nloc = [0, 0]\nscale = [1, 1]\n',
        "some.toml: experts: experts of a product share one space: a lives on Real(1), b on "
        "Real(2)",
    ),
    "spaces in an or": (
        f'[experts.c.or.a]\n{GAUSSIAN}[experts.c.or.b]\nkind = "Gamma"\n'
        "concentration = [1]\nrate = [1]\n",
        "experts.c.or: experts of a mixture share one space: a lives on Real(1), b on Positive(1)",
    ),
    "deep": (
        '[experts.c.or.a.and.b]\nkind = "Gaussian"\nloc = [0]\nscale = [1]\nexponent = "x"\n',
        "experts.c.or.a.and.b.exponent: expected a finite number, got 'x'",
    ),
    "unnormalised in an or": (
        '[experts.c.or.a]\nshipped = "digits-thickness"\ngiven = "thin"\n',
        "experts.c.or.a.log_partition: an OR needs experts on one scale",
    ),
    "a weight for some": (
        f"[experts.c.or.a]\n{GAUSSIAN}weight = 0.5\n[experts.c.or.b]\n{GAUSSIAN}",
        "experts.c.or: expected a weight for each or for none, got none for b",
    ),
    "a weight where there is no or": (
        f"[experts.a]\n{GAUSSIAN}weight = 0.5\n",
        "experts.a.weight: expected it inside an OR alone, where shares are told: use exponent",
    ),
    "a log Z in an and": (
        f"[experts.c.and.a]\n{GAUSSIAN}log_partition = 0.5\n",
        "experts.c.and.a.log_partition: expected it inside an OR alone",
    ),
    "weights of another sum": (
        f"[experts.c.or.a]\n{GAUSSIAN}weight = 0.5\n[experts.c.or.b]\n{GAUSSIAN}weight = 0.2\n",
        "experts.c.or: expected ",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_told_with_file_and_key(mistake: str, tmp_path: Path) -> None:
    text, words = REFUSED[mistake]
    path = written(tmp_path, text)
    with pytest.raises(CompositionError) as refused:
        read(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert words in str(refused.value)


def test_a_missing_file_and_one_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(CompositionError, match=r"none\.toml: cannot be read: No such file"):
        read(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(CompositionError, match="is no TOML file"):
        read(tmp_path / "bytes.toml")


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.toml")))
def test_every_example_reads_and_says_something_finite(example: str) -> None:
    product = read(EXAMPLES / example).product()
    with torch.no_grad():
        assert product(torch.zeros(2, *product.space.event_shape)).isfinite().all()
