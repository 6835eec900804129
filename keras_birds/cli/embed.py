"""`keras-birds embed`: embeddings of many recordings in a store, resumable."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_birds.cli.batch import WindowCounter, connection_to, scoring
from keras_birds.cli.options import (
    NEW_FOLDER,
    ModelChoice,
    find_files,
    inputs_argument,
    network_options,
    ray_option,
    score_options,
    strict_option,
)
from keras_birds.text import printable

if TYPE_CHECKING:
    from keras_birds.inference.scorer import ScoreOptions


@click.command()
@inputs_argument
@click.option(
    *("--out", "out"),
    required=True,
    type=NEW_FOLDER,
    metavar="STORE",
    help="Folder of embeddings: a new one, or one to go on with.",
)
@network_options
@score_options
@ray_option("recordings")
@strict_option
def embed(
    inputs: tuple[str, ...],
    out: Path,
    model: ModelChoice,
    score: "ScoreOptions",
    ray_address: str | None,
    strict: bool,
) -> int:
    """Keep the embeddings of a disk of recordings; the same command goes on where it was stopped.

    \b
    keras-birds embed /mnt/disk --model birdnet --out season1.emb
    keras-birds embed /mnt/disk --model birdnet --out season1.emb     # after a kill, or with new recordings
    keras-birds embed 'plots/*/2025*.wav' --model runs/all/fold0 --overlap 2.5 --out plots.emb
    keras-birds embed /shared/season1 --model birdnet --out season1.emb --ray auto   # on a cluster
    keras-birds info season1.emb                                      # what is in it

    An embedding is what a model knows of a window of sound before it names anything: 1,024 numbers of BirdNET, 1,280
    of a model that was trained here. What sounds alike lies close together. They are computed once, as fast as
    `keras-birds detect` computes scores; to find a call in them, or to teach a classifier, takes seconds.

    INPUTS are files, folders (searched at any depth), globs, a .csv list with a column file, path or filename,
    URLs, and - for a list on stdin, cut into windows as `keras-birds detect` does. A file that can't be read is named
    on stderr with its reason, and the others go on. What was computed of recordings that are out of reach when the
    command runs again stays. A store is of one model: of a run, choose a fold, unless all its folds share one frozen
    network, as those of BirdNET's heads do.

    \b
    STORE/manifest.csv       a row for every recording: status, reason, seconds read, ...
    STORE/vectors/N.npy      float16 [window, size], whole recordings; about 2 kB a window of BirdNET
    STORE/windows/N.parquet  file,channel,start_s,end_s,norm of the same windows
    STORE/journal.jsonl      the model, how recordings were cut, and what is done

    Exit code: 0 all embedded, 1 some failed or are out of reach (0 with --no-strict), 2 a wrong call.
    """
    connection = connection_to(ray_address)
    from keras_birds.cli.reporting import progress_bar
    from keras_birds.embeddings.writer import StoreWriter, store_settings
    from keras_birds.inference.embedder import Embedder
    from keras_birds.results.journal import JOURNAL

    files, gone = find_files(inputs, may_be_gone=(out / JOURNAL).is_file())
    classifier = model.load()
    embedder = Embedder(classifier)
    settings = store_settings(classifier, score)
    with (
        connection,  # first of all, so that a cluster out of reach leaves no folder behind
        StoreWriter(out, settings) as store,
    ):
        with scoring(classifier, model, score, ray_address, Embedder) as run, progress_bar() as bar:
            counter = WindowCounter(store, len(files), bar, "embedded")
            counter.take(run, embedder, store.to_do(files), score)
        manifest = store.finish()
    click.echo(counter.summary(), err=True)
    click.echo(f"{printable(manifest)}\n{printable(out)}")
    return int(strict and bool(counter.failed or counter.gone or gone))
