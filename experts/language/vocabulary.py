"""What tokens are written as, and where a text ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from experts.parameters import sizes, whole
from poe import PoeError
from poe.core.arguments import require, told
from poe.core.errors import DtypeError
from poe.io import register


class Vocabulary(nn.Module):
    """The bytes of each token, the tokens that end a text, and the one that fills up after it.

    A text of fewer tokens than an event has places goes on with one of the ends and then with
    padding alone; a text without an end goes on after the event. A special token that is no end is
    no text: constraints and byte models exclude it.

    Args:
        tokens: Each as a string (its UTF-8 bytes) or as bytes; empty for special tokens, which
            write nothing, as an end does whatever it is.
        ends: Tokens that end a text.
        padding: The token that fills up after an end; by default the first of the ends.

    Raises:
        PoeError: For no tokens, ends or a padding that are none, and a padding without ends.

    Example:
        >>> letters = Vocabulary(["", "a", "b"], ends=[0])
        >>> letters.read(torch.tensor([[1, 2, 0, 0], [2, 2, 2, 1]]))
        ['ab', 'bbba']
    """

    ends: Tensor
    only_padding: Tensor
    is_special: Tensor

    def __init__(
        self, tokens: Sequence[str | bytes], *, ends: Sequence[int] = (), padding: int | None = None
    ) -> None:
        super().__init__()
        if not isinstance(tokens, Iterable) or isinstance(tokens, Tensor):
            raise PoeError(f"expected tokens to be texts, got {told(tokens)}: give a list of them")
        for token in tokens:
            require("a token", token, str | bytes)
        self.tokens = tuple(t.encode() if isinstance(t, str) else bytes(t) for t in tokens)
        size, ends = len(self.tokens), sizes("ends", ends, None)
        padding = None if padding is None else whole("padding", padding, None)
        own = [*ends, *([] if padding is None else [padding])]
        if not size or not all(0 <= token < size for token in own):
            raise PoeError(f"expected ends and padding among tokens 0 ... {size - 1}, got {own}")
        if padding is not None and not ends:
            raise PoeError("expected ends=[...] beside a padding: nothing says where it begins")
        self.padding = padding if padding is not None else (ends[0] if ends else None)
        self.register_buffer("ends", torch.tensor(ends, dtype=torch.long), persistent=False)
        only = torch.full((size,), -torch.inf)
        if self.padding is not None:
            only[self.padding] = 0.0
        self.register_buffer("only_padding", only, persistent=False)
        written = torch.tensor([not token for token in self.tokens])
        self.register_buffer("is_special", written, persistent=False)

    @property
    def size(self) -> int:
        """k, how many tokens there are."""
        return len(self.tokens)

    def is_end(self, values: Tensor) -> Tensor:
        """Whether tokens end a text.

        Args:
            values: Tokens, of any shape.

        Returns:
            Of the same shape.
        """
        return (values[..., None] == self.ends).any(-1)

    def is_over(self, values: Tensor) -> Tensor:
        """Whether the text ended before each place.

        Args:
            values: Tokens, ``(n, t)``.

        Returns:
            ``(n, t)``.
        """
        ended = self.is_end(values).int()
        return ended.cumsum(-1) - ended > 0

    def stop(self, log_next: Tensor, is_over: Tensor) -> Tensor:
        """log p of what follows: padding alone where the text is over.

        Args:
            log_next: Of a text that is not over, ``(*batch, k)``.
            is_over: Where it is, ``(*batch,)``.

        Returns:
            ``(*batch, k)``.
        """
        return torch.where(is_over[..., None], self.only_padding.to(log_next.dtype), log_next)

    def spell(self, x: Tensor) -> list[bytes]:
        """The bytes of texts, up to their ends.

        Args:
            x: Tokens, ``(n, length)``.

        Returns:
            One a text.
        """
        num_written = (~self.is_over(x) & ~self.is_end(x)).sum(1)
        kept = [row[:count] for row, count in zip(x.tolist(), num_written.tolist(), strict=True)]
        return [b"".join(self.tokens[token] for token in row) for row in kept]

    def read(self, x: Tensor) -> list[str]:
        """Texts as strings; bytes that are no UTF-8 show as the sign for them.

        Args:
            x: Tokens, ``(n, length)``.

        Returns:
            One a text.
        """
        return [text.decode(errors="replace") for text in self.spell(x)]

    def extra_repr(self) -> str:
        return f"{self.size} tokens, ends={self.ends.tolist() if not self.ends.is_meta else '...'}"


def require_integers(values: Tensor, what: str = "tokens") -> None:
    """Refuse floats where token ids are expected.

    Args:
        values: What was given.
        what: Its name, for the error.

    Raises:
        DtypeError: For floats, and for booleans.
    """
    if values.is_floating_point() or values.dtype == torch.bool:
        raise DtypeError(
            f"expected {what} as integers, got {values.dtype}: give token ids, not embeddings or "
            "one-hot vectors; .long() where they are ids in floats"
        )


def require_tokens(values: Tensor, size: int, what: str) -> None:
    """Refuse what are no token ids, in words.

    Looks at the values, save on the meta device.

    Args:
        values: What was given.
        size: How many tokens there are, k.
        what: Its name, for the error.

    Raises:
        DtypeError: For floats, and for booleans.
        PoeError: For integers outside of 0 … k − 1.
    """
    require_integers(values, what)
    if not values.is_meta and values.numel() and not 0 <= values.min() <= values.max() < size:
        raise PoeError(
            f"expected {what} in 0 ... {size - 1}, got {int(values.min())} ... "
            f"{int(values.max())}: was it encoded by the tokeniser of another model?"
        )


register(
    Vocabulary,
    lambda v: {
        "tokens": [token.decode("latin-1") for token in v.tokens],
        "ends": v.ends.tolist(),
        "padding": v.padding,
        "only_padding": v.only_padding,
    },
    lambda f: Vocabulary(
        [token.encode("latin-1") for token in f["tokens"]], ends=f["ends"], padding=f["padding"]
    ).to(f["only_padding"].dtype),
    name="experts.language.Vocabulary",
    formerly=("experts.language.vocabulary.Vocabulary",),
)
