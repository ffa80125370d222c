"""Blocks of steps compiled in one graph, with the random numbers drawn outside."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poe.samplers.kernel import Density
from poe.samplers.questions import draws_beforehand, gradients_per_step
from poe.sampling.tally import Tally

GRADIENTS_PER_BLOCK = 8
"""Long enough that a call's overhead is small, short enough to compile in seconds."""
DECOMPOSED_TANH = "cpp.use_decompose_tanh"
"""tanh from one exponential on CPUs: three times as fast, and within 2e-7 in float32."""
GRAPH_PASS = "post_grad_custom_post_pass"
"""Where the compiler takes a pass of ours."""


class Visits(NamedTuple):
    """What a run keeps of some steps."""

    position: Tensor
    """``(steps, chains, *event)``"""
    log_density: Tensor
    """``(steps, chains)``"""
    acceptance_probability: Tensor
    """Of the last step: ``(chains,)``."""
    tally: Tally


class Block:
    """Some steps of a kernel at a density, compiled at the first call.

    The random numbers are those that the same steps draw one by one, so a compiled run differs from
    an eager one by rounding alone. What cannot be captured in one graph goes on eagerly from these
    very numbers, and ``failure`` says why; an error of the target itself is raised by its steps.
    """

    def __init__(self, kernel: Any, target: Density) -> None:
        self.kernel = kernel
        self.target = target
        self.failure = ""
        self.compile_seconds = 0.0
        self.num_steps = 1
        if not draws_beforehand(kernel):
            self.failure = f"{type(kernel).__name__} does not draw its random numbers beforehand"
            return
        self.num_steps = max(1, GRADIENTS_PER_BLOCK // max(1, gradients_per_step(kernel)))
        began = time.perf_counter()  # to load the compiler takes seconds as well
        self._compiled = torch.compile(
            self._steps, fullgraph=True, dynamic=False, options=_options()
        )
        self.compile_seconds = time.perf_counter() - began
        self._is_cold = True

    def draw_noise(self, position: Tensor, generator: torch.Generator) -> list[Any]:
        """The random numbers of all the steps, at positions like these."""
        return [self.kernel.draw_noise(position, generator) for _ in range(self.num_steps)]

    def __call__(self, state: Any, noises: list[Any]) -> tuple[Any, Visits]:
        """The state after all the steps, and what is kept of each."""
        began = time.perf_counter()
        try:
            with torch.no_grad():
                result = self._compiled(state, noises)
        except Exception as error:  # one of the target's own is met by its steps, one by one
            if _is_of_the_compiler(error):
                self.failure = _in_one_line(error)
            result = None
        if self._is_cold:
            self.compile_seconds += time.perf_counter() - began
            self._is_cold = False
        return self._steps(state, noises) if result is None else result

    def _steps(self, state: Any, noises: list[Any]) -> tuple[Any, Visits]:
        positions, log_densities, infos = [], [], []
        for noise in noises:
            state, info = self.kernel.transition(self.target, state, noise)
            positions.append(state.position)
            log_densities.append(state.log_density)
            infos.append(info)
        visited = torch.stack(positions), torch.stack(log_densities)
        return state, Visits(*visited, infos[-1].acceptance_probability, Tally.of(infos))


def _options() -> dict[str, Any]:
    """Those of the compiler's options that this version of it has."""
    from poe.sampling.unfused import UnfusedBias  # imports the compiler, which takes seconds

    wanted = {DECOMPOSED_TANH: True, GRAPH_PASS: UnfusedBias()}
    known = torch._inductor.list_options()
    return {name: value for name, value in wanted.items() if name in known}


def _is_of_the_compiler(error: Exception) -> bool:
    """Whether capturing or compiling failed, or gave up after too many recompilations."""
    from torch._dynamo import exc  # takes seconds to import, and the compiler already has

    return isinstance(error, exc.TorchDynamoException | exc.FailOnRecompileLimitHit)


def _in_one_line(error: Exception) -> str:
    """Its kind and what it says first: the backend's errors say what they wrap in a second line."""
    first, *others = str(error).strip().splitlines() or [""]
    wrapped = f" {others[0].strip()}" if others and first.endswith(":") else ""
    return f"{type(error).__name__}: {first}{wrapped}"
