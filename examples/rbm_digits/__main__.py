"""`python -m examples.rbm_digits`."""

from examples.rbm_digits.run import main

if __name__ == "__main__":
    main()
