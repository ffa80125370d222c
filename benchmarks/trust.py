"""What can be believed: how often numbers are right, and whether wrong ones say so.

    python benchmarks/trust.py            # log Z of 60 targets, and draws of 23, at five seeds
    python benchmarks/trust.py --fast     # 40 estimates of log Z, draws of six targets, one seed
    python benchmarks/trust.py --seeds 1
    python benchmarks/trust.py --peers    # dynesty and NumPyro's NUTS beside

The two parts by themselves: trust_log_z.py and trust_sampling.py, which say what counts as right.
"""

from __future__ import annotations

import argparse

import torch
import trust_log_z
import trust_sampling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fast", action="store_true", help="a small part of all")
    parser.add_argument("--peers", action="store_true", help="other packages beside")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("log Z", flush=True)
    trust_log_z.show(arguments.seeds, arguments.fast, (), arguments.peers, 0)
    print("\ndraws", flush=True)
    trust_sampling.show(arguments.seeds, arguments.fast, with_peers=arguments.peers)


if __name__ == "__main__":
    main()
