"""`python -m examples.train_energy`."""

from examples.train_energy.run import main

if __name__ == "__main__":
    main()
