"""`python -m examples.denoise_ising`."""

from examples.denoise_ising.run import main

if __name__ == "__main__":
    main()
