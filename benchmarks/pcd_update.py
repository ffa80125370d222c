"""One update by persistent contrastive divergence, beside ebmkit's and TorchEBM's.

    python benchmarks/pcd_update.py [--threads 2] [--rounds 7]

A residual convolutional energy of 28 x 28 pictures, float32; a batch of 128, 40 Langevin steps of
128 chains out of a buffer of 10,000, 5 % of them begun anew, one step of Adam. All have a network
of the same class and the same weights. Rounds in which all take turns; median, least and most of
the rounds, and the ratio of our time to each of theirs in the same round. "half precision" takes
the Langevin steps, and only these, under autocast (bfloat16), which neither peer offers on a CPU:
the chains then follow the rounded energy, and the loss is in float32 as before. ``--cpu`` counts
the seconds of the process instead of the clock's, for a machine that is busy with other work.

TorchEBM writes where its pointer stands and not into the slots that it read, and adds noise of 0.01
to 5 % of the chains instead of beginning them anew: less work than the others do, not more.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import experts
import poe

BATCH, STEPS, CHAINS, RESEEDED, STEP_SIZE = 128, 40, 10_000, 0.05, 1e-3
SHAPE = (28, 28)

Update = Callable[[], object]


class Negative(nn.Module):
    """The network as an energy, which is what the peers train."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return -self.net(x)


def pictures() -> Tensor:
    """Stands in for data: the time does not depend on what is seen."""
    return torch.randn(BATCH, *SHAPE, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def ours(net: nn.Module, *, half: bool = False) -> Update:
    """With the buffer, the chains and the loss of poe."""
    g = torch.Generator().manual_seed(0)
    expert = experts.NeuralEnergy(net, poe.Real(SHAPE))
    sampled = poe.Autocast(expert) if half else expert
    start = experts.Gaussian(torch.zeros(SHAPE), scale=1.0)
    buffer = poe.ReplayBuffer(start, CHAINS, reseeded=RESEEDED, generator=g)
    kernel, optimizer = poe.samplers.ULA(STEP_SIZE), torch.optim.Adam(net.parameters(), 1e-4)
    data = pictures()

    def update() -> None:
        slots, positions = buffer.take(BATCH, generator=g)
        net.requires_grad_(False)
        model = poe.advance(sampled, kernel, positions, STEPS, generator=g).positions
        net.requires_grad_(True)
        buffer.put(slots, model)
        loss = poe.losses.contrastive_divergence(expert, data, model).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return update


def ebmkit(net: nn.Module) -> Update:
    """`ContrastiveDivergence` with its `ReplayBuffer`; it draws from the global generator."""
    from ebm.buffer import ReplayBuffer
    from ebm.losses.cd import ContrastiveDivergence
    from ebm.samplers import LangevinDynamics

    energy = Negative(net)
    buffer = ReplayBuffer(CHAINS, SHAPE, reinit_prob=RESEEDED)
    loss = ContrastiveDivergence(LangevinDynamics(STEP_SIZE, steps=STEPS), buffer)
    optimizer, data = torch.optim.Adam(net.parameters(), 1e-4), pictures()

    def update() -> None:
        value = loss(energy, data).loss
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return update


def torchebm(net: nn.Module) -> Update:
    """`PersistentContrastiveDivergence` with its own buffer."""
    from torchebm.core import BaseModel
    from torchebm.losses import PersistentContrastiveDivergence
    from torchebm.samplers import LangevinDynamics

    class Energy(BaseModel):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return -self.net(x)

    g = torch.Generator().manual_seed(0)
    energy = Energy()
    loss = PersistentContrastiveDivergence(
        energy,
        LangevinDynamics(energy, step_size=STEP_SIZE),
        k_steps=STEPS,
        buffer_size=CHAINS,
        init_steps=0,
        new_sample_ratio=RESEEDED,
        energy_reg_weight=0.0,
    )
    optimizer, data = torch.optim.Adam(net.parameters(), 1e-4), pictures()

    def update() -> None:
        value, _ = loss(data, generator=g)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return update


def seconds(
    updates: dict[str, Update], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Of one update of each, round by round; the first round is left out."""
    found: dict[str, list[float]] = {name: [] for name in updates}
    for _ in range(rounds + 1):
        for name, update in updates.items():
            began = clock()
            update()
            found[name].append(clock() - began)
    return {name: own[1:] for name, own in found.items()}


def spread(values: list[float]) -> str:
    """Median (least to most)."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    """Print seconds of all, and the ratio of ours to theirs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu", action="store_true", help="seconds of the process")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    net = experts.neural.ResidualNetwork(SHAPE)
    updates = {
        "poe": ours(copy.deepcopy(net)),
        "poe, half precision": ours(copy.deepcopy(net), half=True),
        "ebmkit": ebmkit(copy.deepcopy(net)),
        "TorchEBM": torchebm(copy.deepcopy(net)),
    }
    found = seconds(
        updates, options.rounds, time.process_time if options.cpu else time.perf_counter
    )
    for name, values in found.items():
        print(f"{name:>20}  {spread(values)} s an update")
    for peer in ("ebmkit", "TorchEBM"):
        for own in ("poe", "poe, half precision"):
            ratios = [a / b for a, b in zip(found[own], found[peer], strict=True)]
            print(f"{own:>20}  {spread(ratios)} times {peer}'s")


if __name__ == "__main__":
    main()
