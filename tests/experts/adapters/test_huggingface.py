"""Causal language models of transformers: tiny ones with random weights, against enumeration."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import poe
from experts.language import OverBytes, Vocabulary, contains
from poe.normalizers.enumeration import states
from poe.structure.autoregressive import Autoregressive, at_rows
from poe.testing import EXPERT_LAWS

transformers = pytest.importorskip("transformers")

from experts.adapters.huggingface import LanguageModel, load, vocabulary_of  # noqa: E402
from poe.core.randomness import borrowed  # noqa: E402
from tests.missing import import_without  # noqa: E402
from tests.seeds import seeded  # noqa: E402

VOCABULARY = Vocabulary(["", "a", "b", "ab"], ends=[0])
SIZES = {"vocab_size": 4, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}


def network(kind: str) -> Any:
    """Small, with weights large enough to matter."""
    configs = {
        "GPT2": lambda: transformers.GPT2Config(
            n_positions=16, n_embd=8, n_layer=2, n_head=2, initializer_range=0.5, **SIZES
        ),
        "Llama": lambda: transformers.LlamaConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, initializer_range=0.7, tie_word_embeddings=True, **SIZES,
        ),
    }  # fmt: skip
    with borrowed(torch.Generator().manual_seed(0)):
        return transformers.AutoModelForCausalLM.from_config(configs[kind]()).eval()


@pytest.fixture(params=["GPT2", "Llama"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return LanguageModel(network(request.param), VOCABULARY, 3, prompt=[1, 3, 2])


@torch.no_grad()
def log_prob_by_hand(net: nn.Module, prompt: list[int], text: list[int]) -> float:
    total = 0.0
    for place, token in enumerate(text):
        logits = net(input_ids=torch.tensor([prompt + text[:place]]), use_cache=False).logits
        total += float(logits[0, -1].log_softmax(-1)[token])
    return total


def test_texts_have_the_probability_that_the_network_gives_them(model: LanguageModel) -> None:
    for text, event in (([1, 2, 3], [1, 2, 3]), ([3, 0], [3, 0, 0]), ([0], [0, 0, 0])):
        expected = log_prob_by_hand(model.model, [1, 3, 2], text)
        assert model.log_prob(torch.tensor([event])).item() == pytest.approx(expected, abs=1e-5)


def test_probabilities_sum_to_one_and_padding_is_all_that_follows_an_end(
    model: LanguageModel,
) -> None:
    x = states(model.space)
    log_prob = model.log_prob(x)
    assert log_prob.logsumexp(0).abs() < 1e-5
    is_padded = ~(VOCABULARY.is_over(x) & (x != 0)).any(1)
    assert torch.equal(log_prob > -torch.inf, is_padded)


def test_keys_and_values_kept_say_what_one_pass_says(model: LanguageModel) -> None:
    x = states(model.space)
    stepwise = Autoregressive.log_conditionals(model, x)
    torch.testing.assert_close(stepwise, model.log_conditionals(x), atol=1e-5, rtol=1e-4)


def test_rows_are_chosen_as_resampling_does(model: LanguageModel) -> None:
    first, rows = torch.tensor([1, 2, 3]), torch.tensor([2, 2, 0])
    state = at_rows(model.append(model.begin(3), 0, first), rows)
    expected = model.log_conditionals(torch.tensor([[3, 0, 0], [3, 0, 0], [1, 0, 0]]))[:, 1]
    torch.testing.assert_close(model.log_next(state, 1), expected, atol=1e-5, rtol=1e-4)
    after = model.append(state, 1, torch.tensor([1, 1, 2]))  # and the old state is as it was
    torch.testing.assert_close(model.log_next(state, 1), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(model.log_next(after, 2), expected)


def test_a_prompt_changes_what_follows_and_the_start_token_is_the_default() -> None:
    net, x = network("GPT2"), states(poe.Sequence(4, 2))
    plain, same, other = (
        LanguageModel(net, VOCABULARY, 2, prompt=p) for p in (None, [0], torch.tensor([3, 1]))
    )
    assert torch.equal(plain(x), same(x))
    assert (plain(x) - other(x)).abs().nan_to_num(0.0).max() > 0.1


@pytest.mark.parametrize("law", EXPERT_LAWS, ids=lambda law: law.__name__)
def test_laws(law: Callable[[poe.Expert, Tensor], None]) -> None:
    expert = LanguageModel(network("GPT2"), VOCABULARY, 3, prompt=[1])
    law(expert, torch.tensor([[1, 2, 3], [3, 0, 0], [0, 0, 0]]))


def test_a_product_with_a_constraint_by_particles() -> None:
    net = network("Llama")
    base, topic = (LanguageModel(net, VOCABULARY, 4, prompt=p) for p in ([1], [2, 2]))
    target = poe.contrast(topic, base, 0.5) * contains("bb", VOCABULARY, 4)
    x, g = states(target.space), torch.Generator().manual_seed(0)
    draws = poe.smc_over_positions(target, 4_000, generator=g, progress=False)
    found = draws.log_partition
    assert found is not None
    with torch.no_grad():
        assert (found.value - target(x).logsumexp(0)).abs() < 4 * found.std_error + 1e-5


def test_as_bytes() -> None:
    """In float32 the ways to write a text still sum to what enumeration says."""
    model = LanguageModel(network("GPT2"), VOCABULARY, 4, prompt=[1])
    expert, x = OverBytes(model, VOCABULARY, 2), states(model.space)
    with torch.no_grad():
        starts = [text[:2] == b"ab" for text in VOCABULARY.spell(x)]
        expected = model(x)[torch.tensor(starts)].logsumexp(0)
        found = expert(torch.tensor([list(b"ab")]))[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_saved_and_loaded_with_one_copy_of_shared_weights(tmp_path: Path) -> None:
    net, x = network("Llama"), states(poe.Sequence(4, 2))
    target = poe.Product(
        LanguageModel(net, VOCABULARY, 2, prompt=[1]), LanguageModel(net, VOCABULARY, 2) ** 0.5
    )
    before = torch.get_rng_state()
    poe.save(target, tmp_path / "model")
    loaded = poe.load(tmp_path / "model")
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(loaded(x), target(x))
    assert len(list(loaded.parameters())) == len(list(target.parameters()))


def _byte_level() -> Any:
    """A byte-level tokeniser of ten tokens, made on the spot."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<end>": 0} | {sign: i + 1 for i, sign in enumerate(signs)} | {"Ġc": 257}
    backend = Tokenizer(models.BPE(vocabulary, [("Ġ", "c")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


def test_a_byte_level_tokeniser_says_what_its_tokens_are_written_as() -> None:
    tokenizer = _byte_level()
    found = vocabulary_of(tokenizer, size=260)
    assert found.size == 260
    assert found.tokens[0] == found.tokens[259] == b""
    assert found.tokens[257] == b" c"
    text = "naïve cat\n"
    assert b"".join(found.tokens[i] for i in tokenizer(text).input_ids) == text.encode()
    assert found.ends.tolist() == [0]


def test_from_a_local_folder(tmp_path: Path) -> None:
    tokenizer = _byte_level()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=16, n_embd=4, n_layer=1, n_head=1
    )
    with borrowed(torch.Generator().manual_seed(0)):
        net = transformers.GPT2LMHeadModel(config).eval()
    net.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    expert = load(tmp_path).given("a cat", length=2)
    x = torch.tensor([[257, 0]])
    same = LanguageModel(net, vocabulary_of(tokenizer), 2, prompt=tokenizer("a cat").input_ids)
    torch.testing.assert_close(expert(x), same(x))


def _in_a_template() -> Any:
    """Texts as ``<s> text </s>``, padded by a token of its own."""
    from tokenizers import processors

    tokenizer = _byte_level()
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"})
    ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
    template = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    tokenizer.backend_tokenizer.post_processor = template
    return tokenizer


def test_a_prompt_is_opened_and_not_ended_and_texts_are_padded_as_the_tokeniser_does(
    tmp_path: Path,
) -> None:
    tokenizer = _in_a_template()
    start, end, pad = (tokenizer.convert_tokens_to_ids(t) for t in ("<s>", "</s>", "<pad>"))
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=16, n_embd=4, n_layer=1, n_head=1
    )
    with borrowed(torch.Generator().manual_seed(0)):
        net = transformers.GPT2LMHeadModel(config).eval()
    net.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    plain = tokenizer("a cat", add_special_tokens=False).input_ids
    assert tokenizer("a cat").input_ids == [start, *plain, end]
    assert loaded.given("a cat", 2).prompt.tolist() == [start, *plain]
    assert loaded.given("", 2).prompt.tolist() == [start]
    text = [257, 5, end]
    found = loaded.given("a cat", 5).log_prob(torch.tensor([[*text, pad, pad]])).item()
    assert found == pytest.approx(log_prob_by_hand(net, [start, *plain], text), abs=1e-4)


def _words() -> Any:
    from tokenizers import Tokenizer, decoders, models

    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def _mamba() -> Any:
    config = transformers.MambaConfig(
        hidden_size=8, state_size=2, num_hidden_layers=1, time_step_rank=2, **SIZES
    )
    with borrowed(torch.Generator().manual_seed(0)):
        return transformers.MambaForCausalLM(config).eval()


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "bare model": (lambda: poe.as_expert(network("GPT2")), "cannot tell how long the texts"),
    "training mode": (
        lambda: LanguageModel(network("GPT2").train(), VOCABULARY, 3),
        "in evaluation mode, .* call .eval",
    ),
    "another tokeniser's vocabulary": (
        lambda: LanguageModel(network("GPT2"), Vocabulary("abc"), 3),
        "a vocabulary of the model's 4 tokens, got 3: take it from",
    ),
    "no language model": (
        lambda: LanguageModel(nn.Linear(2, 2), VOCABULARY, 3),
        "a causal language model of transformers, got Linear",
    ),
    "a past that is more than keys and values": (
        lambda: LanguageModel(_mamba(), VOCABULARY, 3),
        "whose past is keys and values of a token each, which MambaForCausalLM's is not",
    ),
    "empty prompt": (
        lambda: LanguageModel(network("GPT2"), VOCABULARY, 3, prompt=[]),
        r"a prompt of token ids \(t,\), at least one",
    ),
    "prompt out of range": (
        lambda: LanguageModel(network("GPT2"), VOCABULARY, 3, prompt=[4]),
        "a prompt of token ids in 0 ... 3, got 4 ... 4: was it encoded",
    ),
    "prompt of floats": (
        lambda: LanguageModel(network("GPT2"), VOCABULARY, 3, prompt=torch.ones(2)),
        "a prompt of token ids as integers, got torch.float32",
    ),
    "too long": (
        lambda: LanguageModel(network("GPT2"), VOCABULARY, 17, prompt=[1]),
        "within the model's 16 places, got a prompt of 1",
    ),
    "floats for tokens": (
        lambda: LanguageModel(network("GPT2"), VOCABULARY, 3)(torch.zeros(1, 3)),
        "tokens as integers, got torch.float32",
    ),
    "token out of range": (
        lambda: LanguageModel(network("GPT2"), VOCABULARY, 3).log_prob(torch.tensor([[0, 0, 4]])),
        "got 4 in event 0",
    ),
    "word pieces": (lambda: vocabulary_of(_words()), "byte-level or SentencePiece tokeniser"),
    "more tokens than the model": (
        lambda: vocabulary_of(_byte_level(), size=100),
        "at most the model's 100 tokens, got one of 258",
    ),
    "nothing there": (lambda: load("no/such/folder"), "found nothing at no/such/folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@seeded()
def test_what_does_not_fit_is_refused_in_words(name: str) -> None:
    provoke, words = REFUSED[name]
    with pytest.raises(poe.PoeError, match=words):
        provoke()


def test_a_missing_extra_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ImportError, match=r'pip install "product-of-experts\[language\]"'):
        import_without("transformers", "experts.adapters.huggingface", monkeypatch)


def test_gguf_files_need_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "product-of-experts\[language\]"'):
        load(tmp_path / "model.gguf")


@pytest.mark.process
def test_importing_experts_imports_no_transformers() -> None:
    code = "import sys, experts; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n"
