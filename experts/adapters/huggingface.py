"""Causal language models of Hugging Face's transformers as experts on token sequences.

Needs transformers, which `import experts` does not: `pip install "product-of-experts[language]"`.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from experts.language.next_token import require_eval
from experts.language.vocabulary import Vocabulary, require_integers, require_tokens
from poe import AdaptationError, Expert, PoeError, Sequence as Tokens, as_expert
from poe.io import register
from poe.structure.autoregressive import Autoregressive, as_values

try:
    import transformers
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
except ImportError as error:
    raise ImportError(
        "experts.adapters.huggingface needs transformers >= 5.24: "
        'pip install "product-of-experts[language]"'
    ) from error

SAMPLES = ("The cat sat.", " it's 12, isn't it?\n\tYes: naïve", "x + y ≈ z 🙂  end")
"""Texts whose tokens must write them again, byte for byte."""


Layers = tuple[tuple[Tensor, Tensor], ...]


class Seen(NamedTuple):
    """What a model has seen.

    Args:
        layers: Keys and values of every layer, each ``(n, heads, t, width)``.
        log_next: log p of what follows, ``(n, k)``.
        is_over: Whether the text has ended, ``(n,)``.
    """

    layers: Layers
    log_next: Tensor
    is_over: Tensor


class LanguageModel(Autoregressive):
    """log p(x | prompt) = Σₜ log p(xₜ | prompt, x₁ … xₜ₋₁), up to the end of the text.

    After an end token of the vocabulary padding follows with probability 1, and nothing else: so p
    is normalised over texts of at most ``length`` tokens, a longer one being known by its first
    ``length``. Every other token, special ones included, has the probability that the model gives
    it.

    Shapes: x ``(*batch, length)``. ``log_prob`` takes one pass; ``sample`` and particles keep keys
    and values.

    Args:
        model: A causal language model of transformers in evaluation mode; several experts may share
            one.
        vocabulary: What the model's tokens are written as, and which of them end a text.
        length: Tokens in an event.
        prompt: Token ids that every text follows, ``(t,)``; the model's own start token if None.

    Raises:
        AdaptationError: For what is no causal language model, is in training mode, keeps more than
            keys and values, or whose vocabulary is another one.
        PoeError: For a prompt of other tokens, or of none, or that leaves too little room.

    Example:
        >>> config = transformers.GPT2Config(vocab_size=3, n_embd=8, n_layer=1, n_head=2)
        >>> letters = Vocabulary(["", "a", "b"], ends=[0])
        >>> gpt = transformers.GPT2LMHeadModel(config).eval()
        >>> model = LanguageModel(gpt, letters, length=4, prompt=[1, 2])
        >>> x = model.sample(5, generator=torch.Generator().manual_seed(0))
        >>> x.shape, model.log_prob(x).shape
        (torch.Size([5, 4]), torch.Size([5]))
    """

    prompt: Tensor
    space: Tokens

    def __init__(
        self,
        model: nn.Module,
        vocabulary: Vocabulary,
        length: int,
        *,
        prompt: Sequence[int] | Tensor | None = None,
    ) -> None:
        super().__init__()
        _require_causal(model, vocabulary)
        self.model, self.vocabulary = model, vocabulary
        self.space = Tokens(vocabulary.size, length)
        self.register_buffer("prompt", _prompt(model, prompt))
        room = getattr(model.config, "max_position_embeddings", None)
        if room is not None and len(self.prompt) + length - 1 > room:
            raise PoeError(
                f"expected a prompt and {length} tokens within the model's {room} places, got a "
                f"prompt of {len(self.prompt)}: shorten one of them"
            )
        if not self.prompt.is_meta and not next(model.parameters()).is_meta:
            self._require_steps()

    def begin(self, num_sequences: int) -> Seen:
        first, log_next = self._step(self.prompt[None], ())
        layers = tuple((_rows(k, num_sequences), _rows(v, num_sequences)) for k, v in first)
        is_over = self.prompt.new_zeros(num_sequences, dtype=torch.bool)
        return Seen(layers, _rows(log_next, num_sequences), is_over)

    def log_next(self, state: Seen, place: int) -> Tensor:
        return self.vocabulary.stop(state.log_next, state.is_over)

    def append(self, state: Seen, place: int, values: Tensor) -> Seen:
        layers, log_next = self._step(values[:, None], state.layers)
        return Seen(layers, log_next, state.is_over | self.vocabulary.is_end(values))

    def log_conditionals(self, x: Tensor) -> Tensor:
        """log p(v | prompt, x₁ … xₜ₋₁) at every place.

        Args:
            x: Tokens, ``(*batch, length)``.

        Returns:
            ``(*batch, length, k)``.

        Raises:
            AdaptationError: For a model in training mode.
            DtypeError: For tokens that are no integers.
        """
        require_eval(self.model)
        require_integers(x)
        batch_shape = self.space.batch_shape(x)
        values = as_values(self.space, x).reshape(-1, self.space.length)
        rows = torch.cat([_rows(self.prompt[None], len(values)), values[:, :-1]], 1)
        # With a cache, which is dropped: without one transformers looks for packed sequences.
        told = self.model(
            input_ids=rows,
            cache=DynamicCache(),
            use_cache=True,
            logits_to_keep=self.space.length,
        )
        logits = told.logits
        found = self.vocabulary.stop(logits.log_softmax(-1), self.vocabulary.is_over(values))
        return found.reshape(*batch_shape, self.space.length, -1)

    def _step(self, tokens: Tensor, layers: Layers) -> tuple[Layers, Tensor]:
        """All keys and values, and what follows tokens ``(n, t)`` after those that were there."""
        require_eval(self.model)
        cache = DynamicCache(layers) if layers else DynamicCache()
        found = self.model(input_ids=tokens, cache=cache, use_cache=True, logits_to_keep=1)
        kept = tuple((layer.keys, layer.values) for layer in cache.layers)
        return kept, found.logits[:, -1].log_softmax(-1)

    @torch.no_grad()
    def _require_steps(self) -> None:
        """Two tokens one by one say what they say at once."""
        pair = self.prompt[:1].expand(1, 2)
        first, _ = self._step(pair[:, :1], ())
        (_, second), (_, once) = self._step(pair[:, 1:], first), self._step(pair, ())
        if not torch.allclose(once, second, atol=1e-2, rtol=1e-3):
            raise _more_than_keys(self.model)

    def extra_repr(self) -> str:
        return f"{self.space}, a prompt of {len(self.prompt)} tokens"


class Pretrained(NamedTuple):
    """A model, its tokeniser, and what its tokens are written as.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        tokenizer: Of transformers.
        vocabulary: What the tokens are written as.
    """

    model: nn.Module
    tokenizer: Any
    vocabulary: Vocabulary

    def given(self, prompt: str, length: int) -> LanguageModel:
        """The expert of texts that follow a prompt in words.

        What the tokeniser's template puts before a text, such as a start token, is put there; what
        it puts after one, such as an end token, is not, since the prompt is not the whole text.

        Args:
            prompt: The words; none for the model's own start token.
            length: Tokens of a text at most.

        Returns:
            The expert.

        Raises:
            PoeError: For a prompt that leaves too little room.
        """
        ids = _opened(self.tokenizer, prompt)
        return LanguageModel(self.model, self.vocabulary, length, prompt=ids or None)


def _opened(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text that goes on: with what a template puts before it, not after it."""
    tried = text or "a"  # an empty one would not tell the template's two sides apart
    own: list[int] = tokenizer(tried, add_special_tokens=False).input_ids
    whole: list[int] = tokenizer(tried).input_ids
    for first in range(len(whole) - len(own) + 1):
        if whole[first : first + len(own)] == own:
            return whole[: first + len(own)] if text else whole[:first]
    raise AdaptationError(
        f"expected a template that leaves the tokens of {text!r} as they are, {own}, got {whole}: "
        "give LanguageModel the token ids of the prompt, prompt=[...]"
    )


def load(
    path: str | os.PathLike[str],
    *,
    ends: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Pretrained:
    """A causal language model from a local folder (safetensors), or from a GGUF file.

    Nothing is fetched, no code of the folder is run and no pickle is read.

    Args:
        path: The folder, or the file.
        ends: The tokens that end a text; the tokeniser's own if None.
        dtype: Of the weights.

    Returns:
        The model, its tokeniser and its vocabulary.

    Raises:
        PoeError: Where nothing is there.
        AdaptationError: Where the tokeniser and the model do not fit.
        ImportError: For a GGUF file, where gguf or accelerate is not installed.
    """
    where = Path(path)
    if not where.exists():
        raise PoeError(f"expected a folder or a .gguf file, found nothing at {where}")
    folder = where if where.is_dir() else where.parent
    options: dict[str, Any] = {} if where.is_dir() else {"gguf_file": where.name}
    if options and not all(map(importlib.util.find_spec, ("gguf", "accelerate"))):
        raise ImportError(
            'GGUF files need gguf and accelerate: pip install "product-of-experts[language]"'
        )
    options["local_files_only"] = True
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    if where.is_dir():
        options["use_safetensors"] = True
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    vocabulary = vocabulary_of(tokenizer, size=model.config.vocab_size, ends=ends)
    return Pretrained(model.eval(), tokenizer, vocabulary)


def vocabulary_of(
    tokenizer: Any, *, size: int | None = None, ends: Sequence[int] | None = None
) -> Vocabulary:
    """What the tokens of a byte-level or SentencePiece tokeniser are written as.

    Padding is the tokeniser's own, where it has one.

    Args:
        tokenizer: Of transformers.
        size: The model's number of tokens, which may be more: those write nothing. The tokeniser's
            if None.
        ends: The tokens that end a text; the tokeniser's own if None.

    Returns:
        The vocabulary.

    Raises:
        AdaptationError: For other kinds of tokenisers, where the model has fewer tokens, and where
            the bytes of some texts' tokens are not what the tokeniser itself decodes.
    """
    count = len(tokenizer)
    if size is not None and count > size:
        raise AdaptationError(
            f"expected a tokeniser of at most the model's {size} tokens, got one of {count}: it "
            "belongs to another model"
        )
    special, to_bytes = set(tokenizer.all_special_ids), _decoder(tokenizer)
    names = tokenizer.convert_ids_to_tokens(list(range(count)))
    tokens = [b"" if i in special else to_bytes(name) for i, name in enumerate(names)]
    for text in SAMPLES:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        expected = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        written = b"".join(tokens[token] for token in ids).decode(errors="replace")
        if written.removeprefix(" ") != expected.removeprefix(" "):
            raise AdaptationError(
                f"expected the tokens of {text!r} to be written as {expected!r}, got {written!r}: "
                "give experts.language.Vocabulary the bytes of each token"
            )
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ends = own if ends is None else ends
    padded = [*tokens, *[b""] * ((size or count) - count)]
    return Vocabulary(padded, ends=ends, padding=tokenizer.pad_token_id if ends else None)


def _decoder(tokenizer: Any) -> Any:
    """From a token's name to its bytes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described = "" if backend is None else json.dumps(json.loads(backend.to_str())["decoder"])
    if '"ByteLevel"' in described:
        table = _bytes_of_signs()
        return lambda name: (
            bytes(table[sign] for sign in name) if table.keys() >= set(name) else name.encode()
        )
    if '"ByteFallback"' in described:
        return _sentence_piece
    raise AdaptationError(
        f"expected a byte-level or SentencePiece tokeniser with byte fallback, got "
        f"{type(tokenizer).__name__} with the decoder {described or 'of a slow tokeniser'}: give "
        "experts.language.Vocabulary the bytes of each token"
    )


def _bytes_of_signs() -> dict[str, int]:
    """The sign for each byte in byte-level vocabularies (Radford et al. 2019, encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def _sentence_piece(name: str) -> bytes:
    if len(name) == 6 and name.startswith("<0x"):
        return bytes([int(name[3:5], 16)])
    return name.replace("▁", " ").encode()


def _require_causal(model: nn.Module, vocabulary: Vocabulary) -> None:
    if not isinstance(model, transformers.PreTrainedModel) or model.get_output_embeddings() is None:
        raise AdaptationError(
            f"expected a causal language model of transformers, got {type(model).__name__}: load "
            "one by AutoModelForCausalLM; for any other network use experts.language.NextToken"
        )
    require_eval(model)
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    if not kinds <= {DynamicLayer, DynamicSlidingWindowLayer}:
        raise _more_than_keys(model)
    size = model.get_output_embeddings().weight.shape[0]
    if vocabulary.size != size:
        raise AdaptationError(
            f"expected a vocabulary of the model's {size} tokens, got {vocabulary.size}: take it "
            "from the model's own tokeniser, by vocabulary_of(tokenizer, size=...)"
        )


def _more_than_keys(model: nn.Module) -> AdaptationError:
    return AdaptationError(
        f"expected a model whose past is keys and values of a token each, which "
        f"{type(model).__name__}'s is not; use experts.language.NextToken with a function of "
        "prefixes that returns model(input_ids=prompt and prefix).logits[:, -1]"
    )


def _prompt(model: Any, prompt: Sequence[int] | Tensor | None) -> Tensor:
    """Token ids ``(t,)``, at least one, where the model is."""
    if prompt is None:
        prompt = [] if model.config.bos_token_id is None else [model.config.bos_token_id]
    tokens = torch.as_tensor(prompt, device=model.device)
    if tokens.ndim != 1 or not len(tokens):
        raise PoeError(
            f"expected a prompt of token ids (t,), at least one, got shape {tuple(tokens.shape)}: "
            "the model needs a token to start from (prompt=tokenizer(text).input_ids)"
        )
    require_tokens(tokens, model.config.vocab_size, "a prompt of token ids")
    return tokens.long()


def _rows(x: Tensor, num_rows: int) -> Tensor:
    return x.expand(num_rows, *x.shape[1:])


@as_expert.register(transformers.PreTrainedModel)
def _(source: Any) -> Expert:
    raise AdaptationError(
        f"cannot tell how long the texts of {type(source).__name__} are, what they follow and "
        "where they end: use experts.adapters.huggingface.LanguageModel(model, "
        "vocabulary_of(tokenizer), length, prompt=...)"
    )


def _describe(expert: LanguageModel) -> dict[str, Any]:
    model: Any = expert.model
    config = model.config.to_dict()
    config.pop("quantization_config", None)  # the weights are those of full precision
    return {
        "architecture": type(expert.model).__name__,
        "config": json.dumps(config, default=str),
        "tensors": expert.model.state_dict(keep_vars=True),
        "vocabulary": expert.vocabulary,
        "length": expert.space.length,
        "prompt": expert.prompt,
    }


def _build(fields: dict[str, Any]) -> LanguageModel:
    kind: Any = getattr(transformers, fields["architecture"], None)
    if kind is None or not issubclass(kind, transformers.PreTrainedModel):
        raise PoeError(f"expected an architecture of transformers, got {fields['architecture']}")
    model = kind(kind.config_class.from_dict(json.loads(fields["config"])))
    model.load_state_dict(fields["tensors"], assign=True)
    prompt = fields["prompt"]
    return LanguageModel(model.eval(), fields["vocabulary"], fields["length"], prompt=prompt)


register(
    LanguageModel,
    _describe,
    _build,
    name="experts.adapters.huggingface.LanguageModel",
)
