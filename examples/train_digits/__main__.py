"""`python -m examples.train_digits`."""

from examples.train_digits.run import main

if __name__ == "__main__":
    main()
