"""Which of BirdNET's labels are no birds, and names and classes for the labels of custom classifiers."""

import re
from dataclasses import replace

from keras_birds.birdnet.range_model import NO_SPECIES
from keras_birds.labels import Label, LabelSet
from keras_birds.models.label_file import LATIN

_CLASS_OF_GENUS = {
    genus: class_name
    for class_name, genera in {
        "Amphibia": "Acris Anaxyrus Dryophytes Eleutherodactylus Gastrophryne Hyliola Incilius Lithobates Pseudacris "
        "Scaphiopus Spea",
        "Insecta": "Allonemobius Amblycorypha Anaxipha Apis Atlanticus Conocephalus Cyrtoxipha Eunemobius Gryllus "
        "Microcentrum Miogryllus Neoconocephalus Neonemobius Oecanthus Orchelimum Orocharis Phyllopalpus Pterophylla "
        "Scudderia",
        "Mammalia": "Alouatta Canis Odocoileus Sciurus Tamias Tamiasciurus",
    }.items()
    for genus in genera.split()
}
"""Genera in BirdNET's labels that are no birds'."""


def class_of(scientific_name: str) -> str:
    """`"Aves"`, `"Amphibia"`, `"Insecta"` or `"Mammalia"` of a species that BirdNET knows; empty of what is none."""
    if scientific_name in NO_SPECIES or not LATIN.fullmatch(scientific_name):
        return ""
    return _CLASS_OF_GENUS.get(scientific_name.split()[0], "Aves")


def with_classes(labels: LabelSet) -> LabelSet:
    """BirdNET's own labels, each with its class."""
    return LabelSet(replace(x, class_name=class_of(x.scientific_name)) for x in labels.items)


def with_known_names(labels: LabelSet, known: LabelSet) -> LabelSet:
    """Labels of a custom classifier, with what BirdNET's labels say of the same species or of another of its genus."""
    names = {x.scientific_name: x for x in known.items if x.scientific_name}
    genera = {k.split()[0]: x.class_name for k, x in names.items() if x.class_name}

    def filled(label: Label) -> Label:
        plain = re.sub(r" \(\d+\)$", "", label.name)  # without its number, where it is there again
        is_species = plain in names or (LATIN.fullmatch(plain) and plain.split()[0] in genera)
        scientific = label.scientific_name or (plain if is_species else "")
        same = names.get(scientific, Label(scientific))
        return Label(
            label.name,
            scientific,
            label.common_name or same.common_name,
            label.class_name or same.class_name or genera.get(scientific.partition(" ")[0], ""),
        )

    return LabelSet(map(filled, labels.items))
