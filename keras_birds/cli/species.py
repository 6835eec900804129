"""`keras-birds species`: what may occur at a place in a week of the year."""

import json
from pathlib import Path

import click

from keras_birds.cli.options import NEW_FILE, check_folder_of, choice_option
from keras_birds.cli.rules_options import PlaceChoice, place_options
from keras_birds.cli.streams import encode_output


@click.command()
@place_options
@click.option("--out", type=NEW_FILE, metavar="FILE", help="Write the species to this file, not to stdout.")
@choice_option(
    "--format",
    ("list", "table", "json"),
    "A list for --species, or the species with their probabilities.",
    "form",
)
def species(place: PlaceChoice, out: Path | None, form: str) -> None:
    """Tell which species may occur somewhere, the most probable first, as BirdNET's range model has it.

    \b
    keras-birds species --lat 37.0 --lon -6.4 --week 19           # the second week of May
    keras-birds species --lat 37.0 --lon -6.4 --out list.txt      # the whole year
    keras-birds detect recordings/ --species list.txt --out results
    keras-birds species --lat 37.0 --lon -6.4 --week 19 --format table

    The list has a species a line, Scientific name_Common name, and may be edited. `keras-birds detect --lat ... --lon
    ...` chooses by the week of each recording. It also keeps what lives nowhere, as engines and voices, which isn't in
    this list.

    Weeks are 1 to 48, four a month: from the 1st, 8th, 15th and 22nd.
    """
    degrees = place.degrees
    if degrees is None:
        raise click.UsageError("there must be a place: pass --lat and --lon")
    check_folder_of(out, "--out")
    from keras_birds.cli.reporting import text_table
    from keras_birds.results.occurrence import WHOLE_YEAR, species_at

    if place.week is None:
        click.echo("Of the whole year, as no --week is given", err=True)
    found = species_at(*degrees, place.week or WHOLE_YEAR, place.least)
    if form == "json":
        names = ("scientific_name", "common_name", "occurrence")
        rows = [dict(zip(names, x, strict=True)) for x in found]
        text = json.dumps(rows, indent=2, ensure_ascii=False)
    elif form == "table":
        text = text_table(("occurrence", "scientific name", "common name"), *((p, x, y) for x, y, p in found))
    else:
        text = "\n".join(f"{scientific}_{common}" for scientific, common, _ in found)
    if out is None:
        if form != "table":
            encode_output()
        click.echo(text)
        return
    from keras_birds.results.writers.files import new_text

    with new_text(out) as stream:
        stream.write(text + "\n")
    click.echo(f"{len(found)} species: {out}", err=True)
