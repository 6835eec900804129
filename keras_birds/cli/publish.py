"""`keras-birds publish`: detections as registries of biodiversity read them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_birds.cli.options import EXISTING_FILE, EXISTING_FOLDER, NEW_FOLDER, SHARE, choice_option

if TYPE_CHECKING:
    from keras_birds.survey.citation import About, Method
    from keras_birds.survey.published import Publication

_DESIGNS = (
    *("simpleRandom", "systematicRandom", "clusteredRandom", "experimental", "targeted", "opportunistic"),
)
_NEEDED = {
    "camtrap-dp": ("title", "contact", "licence", "design"),
    "darwin-core": ("title", "contact", "licence"),
    "ebird": (),
}


@click.command()
@click.argument("results", type=EXISTING_FOLDER)
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(tuple(_NEEDED)),
    help="Camtrap DP 1.0, a Darwin Core archive of occurrences, or eBird's Record Format (Extended).",
)
@click.option(
    "--deployments",
    required=True,
    type=EXISTING_FILE,
    help="A CSV: deployment,site,latitude,longitude,start,end and pattern, recorder or both; timezone.",
)
@click.option("--out", required=True, type=NEW_FOLDER, help="Folder of what is published: new or empty.")
@click.option("--min-score", type=SHARE, default=0.0, metavar="P", help="Leave out lower scores than this.")
@click.option("--timezone", default="", metavar="ZONE", help="Of clocks without one: Europe/Berlin, +02:00.")
@click.option("--title", default="", help="Of the data set.")
@click.option("--contact", default="", metavar="'NAME <EMAIL>'", help="Whom to ask about the data.")
@click.option(
    "--licence",
    type=click.Choice(("CC0-1.0", "CC-BY-4.0", "CC-BY-NC-4.0")),
    help="Of the data; as GBIF takes.",
)
@click.option("--design", type=click.Choice(_DESIGNS), help="Camtrap DP: how the places were chosen.")
@choice_option(
    "--capture",
    ("timeLapse", "activityDetection"),
    "Camtrap DP: recordings were started by a schedule (or never ended), or by sound.",
)
@click.option(
    "--media-url", default="", metavar="URL", help="Where the recordings are on the web, if they are."
)
@choice_option(
    "--protocol", ("incidental", "stationary"), "eBird: as it asks for recorders; or with minutes of effort."
)
def publish(results: Path, form: str, deployments: Path, out: Path, protocol: str, **others: Any) -> None:
    """Write detections as registries of biodiversity read them: GBIF, Agouti, eBird.

    \b
    keras-birds detect recordings/ --deployments deployments.csv --out results
    keras-birds publish results --format camtrap-dp --deployments deployments.csv --out season \\
        --timezone Europe/Berlin --title "Dawn choruses of the Spreewald, 2026" \\
        --contact "Jane Doe <jane@example.org>" --licence CC-BY-4.0 --design systematicRandom
    keras-birds publish results --format darwin-core --deployments deployments.csv --out dwca \\
        --min-score 0.8 --title ... --contact ... --licence CC-BY-4.0
    keras-birds publish results --format ebird --deployments deployments.csv --out ebird --min-score 0.9

    RESULTS is a folder that `keras-birds detect --out FOLDER` left. Published are detections of labels with a
    scientific name, in recordings that are from a deployment and whose time is known; what isn't is counted at the end.
    No one has checked them: take a --min-score that `keras-birds density` or your ears found to be right.

    \b
    camtrap-dp    datapackage.json, deployments.csv, media.csv, observations.csv
                  Every time has its offset from UTC, which needs a timezone, in the table or
                  --timezone. Voices are observations of humans. Place in the recording and band
                  that the model hears are tags, for which version 1.0 has no columns.
    darwin-core   occurrence.txt, meta.xml, eml.xml: a MachineObservation a detection, no voices
    ebird         ebird-001.csv, ...: a checklist for each site and day, birds as X, files of 1 MB
                  at most, no header. eBird asks for an account of the recorder's own.
    citation.txt  model, its licence, least score, version, date; also printed

    For GBIF zip the folder itself, not what is in it, and upload it to an IPT.
    """
    from keras_birds.cli.reporting import progress_bar
    from keras_birds.results.clips import check_new_folder
    from keras_birds.results.sites import read_deployments
    from keras_birds.results.writers.files import new_text
    from keras_birds.survey.citation import About, Method, citation
    from keras_birds.survey.published import Publication
    from keras_birds.text import printable

    timezone, min_score = others.pop("timezone"), others.pop("min_score")
    lacking = [f"--{x}" for x in _NEEDED[form] if not others[x]]
    if lacking:
        needs = f"--format {form} needs {', '.join(lacking)}"
        raise click.UsageError(f"{needs}. `keras-birds publish --help` has an example")
    about = About(**{x: y or "" for x, y in others.items()})
    check_new_folder(out)
    publication = Publication(results, read_deployments(deployments), timezone, min_score)
    method = Method.of(publication)
    with progress_bar() as bar:
        task = bar.add_task("Recordings read", total=len(publication))
        publication.on_read = lambda: bar.advance(task)
        paths = _write(form, publication, about, method, protocol, out)
    line = citation(about, method)
    with new_text(out / "citation.txt") as stream:
        stream.write(line + "\n")
    _tell(publication)
    click.echo(printable(line))
    click.echo("\n".join(printable(x) for x in (*paths, out / "citation.txt")))


def _write(
    form: str, publication: "Publication", about: "About", method: "Method", protocol: str, out: Path
) -> list[Path]:
    if form == "camtrap-dp":
        from keras_birds.survey.camtrap_dp import write_camtrap_dp

        return write_camtrap_dp(publication, about, method, out)
    if form == "darwin-core":
        from keras_birds.survey.darwin_core import write_darwin_core

        return write_darwin_core(publication, about, method, out)
    from keras_birds.survey.ebird import write_ebird

    return write_ebird(publication, method, protocol, out)


def _tell(publication: "Publication") -> None:
    from keras_birds.text import printable

    sounds, recordings = publication.num_sounds, publication.num_recordings
    counts = f"{sounds} detection{'s' * (sounds != 1)} in {recordings} recording{'s' * (recordings != 1)}"
    click.echo(f"Published: {counts}, of {len(publication)} in the results", err=True)
    for what, count in publication.left_out.items():
        if count:
            click.echo(f"Left out, {what}: {count}", err=True)
    if publication.unnamed:
        names = sorted(publication.unnamed)
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        click.echo(printable(f"Labels that name no species: {', '.join(names[:5])}{more}"), err=True)
    if publication.twice:
        said = "with the deployment, time and name of another: the same ones twice?"
        click.echo(f"Recordings {said} {publication.twice}", err=True)
