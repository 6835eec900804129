"""`python -m keras_birds` is `keras-birds`."""

from keras_birds.cli.main import main

main()
