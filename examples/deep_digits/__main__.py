"""`python -m examples.deep_digits`."""

from examples.deep_digits.run import main

if __name__ == "__main__":
    main()
