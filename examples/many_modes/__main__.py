"""`python -m examples.many_modes`."""

from examples.many_modes.run import main

if __name__ == "__main__":
    main()
