"""`python -m examples.anomaly_images`."""

from examples.anomaly_images.run import main

if __name__ == "__main__":
    main()
