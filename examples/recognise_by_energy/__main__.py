"""`python -m examples.recognise_by_energy`."""

from examples.recognise_by_energy.run import main

if __name__ == "__main__":
    main()
