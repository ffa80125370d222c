"""`python -m examples.restore_digits`."""

from examples.restore_digits.run import main

if __name__ == "__main__":
    main()
