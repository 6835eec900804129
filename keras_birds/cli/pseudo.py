"""`keras-birds pseudo`: what models hear in recordings that nobody labelled, as soft labels to learn from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_birds.cli.batch import WindowCounter, connection_to, scoring
from keras_birds.cli.options import (
    LENGTH,
    NEW_FOLDER,
    SHARE,
    ModelChoice,
    find_files,
    mix_options,
    network_options,
    ray_option,
    strict_option,
    warn,
)
from keras_birds.text import printable

if TYPE_CHECKING:
    from keras_birds.inference.scorer import ScoreOptions
    from keras_birds.results.pseudo import Teacher

_MOST_NAMED = 5


@click.command()
@click.option(
    *("--data", "inputs"),
    required=True,
    multiple=True,
    metavar="INPUT",
    help="Recordings without labels: a folder, file, glob or .csv list. May be repeated.",
)
@click.option(
    "--out", required=True, type=NEW_FOLDER, help="Folder of pseudo labels: a new one, or one to go on with."
)
@network_options
@click.option(
    *("--power", "power"),
    type=LENGTH,
    default=1.0,
    help="Raise each probability to this power: above 1, what is unsure counts less.",
)
@click.option(
    *("--floor", "floor"), type=SHARE, default=0.0, help="Make 0 of what is less than this, after --power."
)
@click.option(
    *("--cap", "cap"),
    type=LENGTH,
    help="Scale down a window's labels where they sum to more than this. [default: never]",
)
@click.option(
    "--min-confidence",
    type=SHARE,
    default=0.0,
    help="Leave out windows in which no label has this probability, as the models gave it.",
)
@mix_options
@ray_option("recordings")
@strict_option
def pseudo(
    inputs: tuple[str, ...],
    out: Path,
    model: ModelChoice,
    score: "ScoreOptions",
    ray_address: str | None,
    strict: bool,
    **rules: Any,
) -> int:
    """Let models label recordings that nobody labelled, for others to learn from; the same command goes on.

    \b
    keras-birds pseudo --model runs/all --data train_soundscapes --out pseudo
    keras-birds pseudo --model runs/all --data train_soundscapes --out pseudo --power 1.5 --min-confidence 0.1
    keras-birds train --data birdclef --config student --set data.pseudo=pseudo

    The labels are soft: of each window the probability of each label, by the mean of the models and, of a run with
    folds, by each fold's model alone, so that a fold can learn from what its own model heard and is measured honestly.
    Probabilities are kept as the models gave them. Other options for labels with the same --out, as in the second
    line, make new labels in seconds; nothing is scored again.

    Recordings of the data set that the run learnt from are refused, by their place, content or number in an archive,
    and so are soundscapes made of them: they have labels, or measure the models. A file that can't be read is named on
    stderr with its reason, and the others go on. Look at labels.png before you train.

    \b
    PSEUDO/labels.parquet         path,start_s,end_s, then a soft label of each: the mean of the models
    PSEUDO/labels_fold_K.parquet  the same by the model of fold K alone
    PSEUDO/labels.png             how much there is of each label
    PSEUDO/pseudo.json            the models, the options, and counts by label
    PSEUDO/manifest.csv           a row for every recording: status, reason, seconds read, ...
    PSEUDO/scores/, windows/, journal.jsonl   the probabilities, and what is done

    Exit code: 0 all labelled, 1 some failed or are out of reach (0 with --no-strict), 2 a wrong call.
    """
    connection = connection_to(ray_address)
    from keras_birds.cli.reporting import progress_bar
    from keras_birds.inference.members import MemberScorer
    from keras_birds.plots.figure import save_png
    from keras_birds.plots.pseudo_labels import pseudo_labels
    from keras_birds.results.journal import JOURNAL
    from keras_birds.results.pseudo import FIGURE, MEAN_TABLE, LabelRules
    from keras_birds.results.pseudo_writer import PseudoWriter, teacher_of

    named, gone = find_files(inputs, may_be_gone=(out / JOURNAL).is_file(), argument="--data")
    classifier = model.load()
    files, odd = _learnable(named)
    _require_unheard(files, teacher_of(classifier))
    with connection, PseudoWriter(out, classifier, score.overlap_s) as sink:
        with scoring(classifier, model, score, ray_address, MemberScorer) as run, progress_bar() as bar:
            counter = WindowCounter(sink, len(files), bar)
            counter.take(run, MemberScorer(classifier), sink.to_do(files), score)
        sink.finish()
        click.echo(counter.summary(), err=True)
        about = sink.write_labels(LabelRules(**rules))
        save_png(pseudo_labels(about["tables"][MEAN_TABLE], out.resolve().name), out / FIGURE)
    _tell(about)
    click.echo(f"{printable(out / FIGURE)}\n{printable(out)}")
    return int(strict and bool(counter.failed or counter.gone or gone or odd))


def _learnable(named: list[str]) -> tuple[list[str], int]:
    """Absolute paths of those that training can read again, and how many others there are: these are warned of."""
    from keras_birds.audio.remote import is_url

    files: dict[str, None] = {}
    odd = 0
    for name in named:
        is_odd = is_url(name) or printable(name) != name
        if is_odd:
            why = "must be on this machine, as" if is_url(name) else "must have a name in UTF-8, as"
            warn(name, f"left out: it {why} training reads it again")
        else:
            files[str(Path(name).absolute())] = None
        odd += is_odd
    return list(files), odd


def _require_unheard(files: list[str], teacher: "Teacher") -> None:
    """Refuses recordings of the data set of the models' run."""
    from keras_birds.data.unlabelled import known_recordings, run_recordings
    from keras_birds.errors import DataError

    if teacher.run is None:
        rest = "make sure that it is none of these recordings"
        click.echo(f"What the model learnt from isn't known, as it lies in no run: {rest}", err=True)
        return
    known = run_recordings(teacher.run)
    if not any(x.is_file() for x in known):
        gone = f"No recording of the data set of {teacher.run} is where it was"
        click.echo(f"{gone}: they are known by place and number in an archive alone", err=True)
    if shared := known_recordings(map(Path, files), known):
        first, same, why = shared[0]
        raise DataError(
            f"--data must hold no recording of the data set of {teacher.run}, on which its folds learnt or are "
            f"measured. Received: {len(shared)} of them, first {first}, which {why} {same}; take them out"
        )


def _tell(about: dict[str, Any]) -> None:
    """A line on each table, and on which labels there are."""
    for name, table in about["tables"].items():
        left_out = f" ({table['left_out']} left out)" if table["left_out"] else ""
        said = f"{name}: {table['windows']} windows{left_out}, {table['mean_sum']:.3g} labels a window"
        click.echo(said, err=True)
    labels = next(iter(about["tables"].values()))["labels"]
    most = sorted(labels.items(), key=lambda x: -x[1]["sum"])[:_MOST_NAMED]
    without = sum(not x["windows"] for x in labels.values())
    said = ", ".join(f"{printable(name)} {x['sum']:.3g}" for name, x in most)
    rest = f"; {without} of {len(labels)} labels have no window of 0.5 or more" if without else ""
    click.echo(f"Most: {said}{rest}", err=True)
