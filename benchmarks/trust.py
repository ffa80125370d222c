"""What can be believed: how often numbers are right, and whether wrong ones say so.

python benchmarks/trust.py            # log Z of 60 targets at five seeds: three minutes
python benchmarks/trust.py --fast
python benchmarks/trust.py --peers    # dynesty beside, on a few targets
"""

from __future__ import annotations

import argparse

import torch
import trust_log_z


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fast", action="store_true", help="a small part of all")
    parser.add_argument("--peers", action="store_true", help="other packages beside")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    trust_log_z.show(arguments.seeds, arguments.fast, (), arguments.peers, 0)


if __name__ == "__main__":
    main()
