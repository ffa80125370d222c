"""`python -m examples.restore_pictures`."""

from examples.restore_pictures.run import main

if __name__ == "__main__":
    main()
