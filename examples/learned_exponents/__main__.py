"""`python -m examples.learned_exponents`."""

from examples.learned_exponents.run import main

if __name__ == "__main__":
    main()
