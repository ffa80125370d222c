"""Language models from any network that says which token comes next."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from experts.language.vocabulary import Vocabulary, require_integers
from poe import AdaptationError, DtypeError, PoeError, Sequence, ShapeError
from poe.core.arguments import checked, require_count, require_dimensions
from poe.density.checks import precise
from poe.io import register
from poe.structure.autoregressive import Autoregressive, PrefixState, as_values


class NextToken(Autoregressive):
    """log p(x) = Σₜ log softmax(net(x₁ … xₜ₋₁))ₓₜ, up to the end of the text.

    After an end token of the vocabulary padding follows with probability 1, and nothing else: so p
    is normalised over texts of at most ``length`` tokens, a longer one being known by its first
    ``length``.

    Shapes: x ``(*batch, length)``. Every place asks the net once; ``experts.CausalTransformer`` and
    ``experts.adapters.huggingface.LanguageModel`` keep what they have seen.

    Args:
        net: A function or module of the tokens so far ``(n, t)``, int64, t = 0 … length − 1, that
            returns the logits of the next one, ``(n, k)``.
        vocabulary: What the k tokens are written as, and which of them end a text.
        length: Tokens in an event.

    Raises:
        AdaptationError: For a module in training mode.
        ShapeError: When called, where the net returns anything but ``(n, k)``.
        DtypeError: When called, for tokens that are no integers.

    Example:
        >>> letters = Vocabulary(["", "a", "b"], ends=[0])
        >>> model = NextToken(lambda prefix: torch.zeros(len(prefix), 3), letters, length=2)
        >>> model.log_prob(torch.tensor([[0, 0], [1, 0], [1, 2], [0, 1]])).exp()
        tensor([0.3333, 0.1111, 0.1111, 0.0000])
    """

    space: Sequence

    @checked
    def __init__(
        self, net: Callable[[Tensor], Tensor], vocabulary: Vocabulary, length: int
    ) -> None:
        super().__init__()
        require_eval(net)
        self.net, self.vocabulary = net, vocabulary
        self.space = Sequence(vocabulary.size, length)

    def begin(self, num_sequences: int) -> PrefixState:
        return PrefixState(self.vocabulary.ends.new_zeros((num_sequences, 0)))

    def log_next(self, state: PrefixState, place: int) -> Tensor:
        prefix = state.values
        logits: Tensor = self.net(prefix)
        if logits.shape != (len(prefix), self.vocabulary.size):
            raise ShapeError(
                f"expected logits of shape ({len(prefix)}, {self.vocabulary.size}) for a prefix "
                f"{tuple(prefix.shape)}, got {tuple(logits.shape)}: return those of the next token"
            )
        is_over = self.vocabulary.is_end(prefix).any(1)
        return self.vocabulary.stop(precise(logits).log_softmax(-1), is_over)

    def append(self, state: PrefixState, place: int, values: Tensor) -> PrefixState:
        return PrefixState(torch.cat([state.values, values[:, None]], 1))

    def log_conditionals(self, x: Tensor) -> Tensor:
        """log p(v | x₁ … xₜ₋₁) at every place.

        Args:
            x: Tokens, ``(*batch, length)``.

        Returns:
            ``(*batch, length, k)``.

        Raises:
            AdaptationError: For a module in training mode.
            ShapeError: Where the net returns anything but ``(n, k)``.
            DtypeError: For tokens that are no integers.
        """
        require_eval(self.net)
        require_integers(x)
        batch_shape = self.space.batch_shape(x)
        values = as_values(self.space, x).reshape(-1, self.space.length)
        found = [self.log_next(PrefixState(values[:, :t]), t) for t in range(values.shape[1])]
        return torch.stack(found, 1).reshape(*batch_shape, self.space.length, -1)


def require_eval(net: object) -> None:
    """Refuse a network in training mode: with dropout its log-density is another each time.

    Args:
        net: What is asked; a function passes.

    Raises:
        AdaptationError: For a module in training mode.
    """
    if isinstance(net, nn.Module) and net.training:
        raise AdaptationError(
            f"expected {type(net).__name__} in evaluation mode, got it in training mode, in which "
            "dropout makes the log-density another at each call: call .eval() first"
        )


@checked
def log_after(model: Autoregressive, prefixes: Tensor) -> Tensor:
    """log p(v | prefix) of prefixes of one length.

    Args:
        model: What is asked.
        prefixes: Tokens, ``(n, t)``.

    Returns:
        ``(n, k)``.

    Example:
        >>> model = experts.CausalTransformer(5, 4, width=8, num_heads=2)
        >>> log_after(model, torch.tensor([[1, 2]])).shape
        torch.Size([1, 5])
    """
    require_dimensions("prefixes", prefixes, "(n, t)")
    if prefixes.dtype != torch.long:
        raise DtypeError(f"expected tokens of int64, got {prefixes.dtype}: use x.long()")
    if bool(((prefixes < 0) | (prefixes >= (model.space.num_values or 0))).any()):
        raise PoeError(f"expected tokens of {model.space}, got others")
    state = model.begin(len(prefixes))
    for place, values in enumerate(prefixes.unbind(1)):
        state = model.append(state, place, values)
    return model.log_next(state, prefixes.shape[1])


@checked
@torch.no_grad()
def token_frequencies(
    model: Autoregressive, num_samples: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """How often each token is next in the model's own texts, as log-probabilities.

    The mean of p(v | prefix) over the prefixes of the model's draws, of those that are not over
    (where one token has all the mass), so that every token the model can write has some.

    Args:
        model: What is asked.
        num_samples: How many draws.
        generator: Of the draws; a fresh one if left out.

    Returns:
        ``(k,)``.

    Example:
        >>> model = experts.CausalTransformer(5, 4, width=8, num_heads=2)
        >>> g = torch.Generator().manual_seed(0)
        >>> round(float(token_frequencies(model, 10, generator=g).exp().sum()), 6)
        1.0
    """
    require_count("num_samples", num_samples)
    x = model.sample(num_samples, generator=generator)
    total, count = torch.zeros((), dtype=torch.float64, device=x.device), 0
    state = model.begin(num_samples)
    for place, values in enumerate(x.unbind(1)):
        found = model.log_next(state, place).double().exp()
        is_open = found.amax(1) < 1
        total, count = total + found[is_open].sum(0), count + int(is_open.sum())
        if place < x.shape[1] - 1:
            state = model.append(state, place, values)
    return (total / count).log().log_softmax(0)


register(
    NextToken,
    lambda m: {"net": m.net, "vocabulary": m.vocabulary, "length": m.space.length},
    # A module is built in training mode; poe.load puts it back in the one it was saved in.
    lambda f: NextToken(f["net"].eval(), f["vocabulary"], f["length"]),
    name="experts.language.NextToken",
    formerly=("experts.language.next_token.NextToken",),
)
