"""`keras-birds occupancy`: detection histories for occupancy models."""

from datetime import datetime
from pathlib import Path

import click

from keras_birds.cli.options import ANY_PATH, COUNT, EXISTING_FOLDER
from keras_birds.cli.reporting import report
from keras_birds.cli.season_options import SeasonChoice, season_options

_DAY = click.DateTime(("%Y-%m-%d",))


@click.command()
@click.argument("results", type=EXISTING_FOLDER)
@click.option(
    "--out", required=True, type=ANY_PATH, metavar="FOLDER", help="Folder of the tables: new or empty."
)
@season_options
@click.option("--occasion-days", "days", type=COUNT, default=1, help="Length of an occasion.")
@click.option(
    "--begin-hour",
    type=click.IntRange(0, 23),
    default=0,
    help="Hour of day at which occasions begin and end: 12 keeps nights whole.",
)
@click.option(
    "--min-hours",
    type=click.FloatRange(min=0),
    default=0.0,
    help="NA where less was recorded in an occasion. [default: where nothing was]",
    show_default=False,
)
@click.option("--from", "first", type=_DAY, metavar="DAY", help="Day with which the first occasion begins.")
@click.option("--to", "last", type=_DAY, metavar="DAY", help="Last day that counts.")
def occupancy(
    results: Path,
    out: Path,
    choice: SeasonChoice,
    days: int,
    begin_hour: int,
    min_hours: float,
    first: datetime | None,
    last: datetime | None,
) -> None:
    """Write detection histories for occupancy models: 1, 0, or NA where nothing was recorded.

    \b
    keras-birds detect recordings/ --deployments deployments.csv --out results
    keras-birds occupancy results --threshold 0.7 --out occupancy
    keras-birds occupancy results --occasion-days 7 --min-hours 10 --species birds.txt --out weeks
    keras-birds occupancy results --begin-hour 12 --from 2023-05-01 --to 2023-06-15 --out nights
    keras-birds occupancy results --deployments mended.csv --out again    # nothing is scored anew

    RESULTS is a folder that `keras-birds detect --out FOLDER` left. Recordings must be of sites: by the table that
    `detect` was given, or by --deployments or --sites here (their columns: keras-birds activity --help).

    Occasions are the same days at all sites and begin with the first day of the season. Every site of the table has a
    row, also without a detection or a recording. A recording that crosses the end of an occasion counts in both, by its
    minutes. Models take false detections for presence: choose --threshold by what people heard
    (keras-birds density), and read docs/field.md.

    \b
    occupancy/history/LABEL.csv  site,o1,o2,...: 1 detected, 0 not, NA
    occupancy/effort.csv         site,o1,o2,...: hours recorded
    occupancy/sites.csv          site,latitude,longitude,deployments,occasions,recorded_h
    occupancy/occasions.csv      occasion,begin,end,sites,recorded_h
    occupancy/occupancy.csv      label,...,sites,sites_detected,naive_occupancy,...
    occupancy/left_out.csv       file,why,detail: recordings that don't count
    occupancy/occupancy.png      histories of the six labels that are at most sites

    All tables have their sites and occasions in the same order. In R:

    \b
    read <- function(x) read.csv(file.path("occupancy", x), row.names = 1)
    y <- as.matrix(read("history/LABEL.csv")); hours <- as.matrix(read("effort.csv"))
    umf <- unmarked::unmarkedFrameOccu(y, siteCovs = read("sites.csv"),
                                       obsCovs = list(hours = hours))
    unmarked::occu(~ scale(hours) ~ 1, umf)
    \b
    keep <- rowSums(!is.na(y)) > 0      # spOccupancy refuses sites that are NA throughout
    spOccupancy::PGOcc(~ 1, ~ scale(hours),
                       list(y = y[keep, ], det.covs = list(hours = hours[keep, ])), ...)
    \b
    files <- list.files("occupancy/history")                 # for several species, msPGOcc
    y <- simplify2array(lapply(file.path("history", files), function(x) as.matrix(read(x))))
    y <- aperm(y, c(3, 1, 2))                                 # species, sites, occasions
    """
    from keras_birds.plots.season import history_figure
    from keras_birds.results.clips import check_new_folder
    from keras_birds.survey.occupancy import Histories, Occasions, write_histories

    check_new_folder(out)
    occasions = Occasions(days, begin_hour, min_hours, first and first.date(), last and last.date())
    season = choice.read(results)
    season.require_sites()
    histories = Histories(season, occasions)
    files = write_histories(histories, out)
    files[4:4] = [out / "left_out.csv", out / "occupancy.png"]
    season.write_left_out(files[4])
    if season.labels:
        history_figure(histories, files[5])
    else:
        files.pop(5)
    report([*season.told(), *histories.told(), histories.summary()], files)
