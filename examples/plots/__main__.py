"""`python -m examples.plots`."""

from examples.plots.run import main

if __name__ == "__main__":
    main()
