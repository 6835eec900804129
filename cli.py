from keras_birds.cli.main import main

main()
