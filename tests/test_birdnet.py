"""BirdNET 2.4: the importer, and the model on real recordings."""

import keras_birds


def test_an_added_birdnet_names_a_real_recording(birdnet_model, birds_dir):
    classifier = keras_birds.load("birdnet")
    found = classifier.score_file(birds_dir / "train_audio" / "alpine_chough" / "XC962380.ogg")
    best = classifier.labels.items[int(found.scores.mean(axis=0).argmax())]
    assert (best.name, best.common_name) == ("Pyrrhocorax graculus", "Yellow-billed Chough")
    assert len(classifier.labels) == 6522
