"""`keras-birds activity`: what was recorded at each site, and when labels were detected there."""

from pathlib import Path

import click

from keras_birds.cli.options import EXISTING_FOLDER, NEW_FOLDER
from keras_birds.cli.reporting import report
from keras_birds.cli.season_options import SeasonChoice, season_options

_BINS = ("hour", "day", "month")


@click.command()
@click.argument("results", type=EXISTING_FOLDER)
@click.option("--out", required=True, type=NEW_FOLDER, help="Folder of the tables and figures: new or empty.")
@season_options
@click.option(
    "--by",
    type=click.Choice(_BINS),
    multiple=True,
    default=_BINS,
    help="Hour of day, day or month. May be repeated.",
)
def activity(results: Path, out: Path, choice: SeasonChoice, by: tuple[str, ...]) -> None:
    """Tell how long was recorded at each site and deployment, and when labels were detected there.

    \b
    keras-birds detect recordings/ --out results
    keras-birds activity results --deployments deployments.csv --out activity
    keras-birds activity results --by hour --species owls.txt --threshold 0.6 --out owls

    RESULTS is a folder that `keras-birds detect --out FOLDER` left. The table of sites or deployments that it was given
    counts here too; another one counts in its place, without anything being scored again. Without any, all is of one
    site, `all`.

    \b
    deployments.csv   deployment,site,latitude,longitude,start,end,pattern,recorder,timezone
                      pattern is a folder, folders in a row or a file's name, with * and ?;
                      recorder its serial number as files tell it; one of both is enough;
                      start and end are local times, 2023-05-10 18:30, or days, an end
                      without a time being the end of that day

    Hours and days are local time, on which a recording that crosses a full hour or midnight is split. Hours are of
    what was scored: not of files that failed, what was cut off, what a schedule skipped, or windows left out because of
    voices. Two recorders at a site at once make two hours an hour.

    \b
    activity/effort_<by>.csv    site,deployment,<by>,recordings,recorded_h: also each day of a
                                deployment in the table without a recording
    activity/activity_<by>.csv  label,scientific_name,common_name,site,<by>,detections,recorded_h:
                                for each label and site with a detection, all hours, days or
                                months in which something was recorded there
    activity/left_out.csv       file,why,detail: recordings that don't count: failed, of no site,
                                or without a time. Nothing is guessed
    activity/effort.png         hours recorded by site and day
    activity/activity.png       detections per recorded hour by label and hour of day

    Told on stderr: recordings of a deployment that overlap, clocks that go back, deployments in the table that overlap.
    """
    from keras_birds.plots.activity import activity_figure
    from keras_birds.plots.season import effort_figure
    from keras_birds.results.clips import check_new_folder
    from keras_birds.results.hours import Activity
    from keras_birds.survey.activity import write_activity
    from keras_birds.survey.effort import write_effort

    check_new_folder(out)
    season = choice.read(results)
    files = []
    for name in dict.fromkeys(by):
        files += [out / f"effort_{name}.csv", out / f"activity_{name}.csv"]
        write_effort(season, name, files[-2])
        write_activity(season, name, files[-1])
    files += [out / "left_out.csv", out / "effort.png"]
    season.write_left_out(files[-2])
    effort_figure(season, files[-1])
    of_day = Activity.of(season.counts)
    if of_day.detections.any():
        files.append(out / "activity.png")
        activity_figure(of_day, files[-1])
    report([*season.told(), season.summary()], files)
