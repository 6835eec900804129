"""`keras-birds pretrain`: teach a backbone to hear, from recordings without labels."""

from functools import partial
from pathlib import Path

import click

from keras_birds.cli.options import ANY_PATH, EXISTING_FOLDER, config_options
from keras_birds.cli.reporting import make_reporter


@click.command()
@click.option(
    *("--data", "data"),
    required=True,
    multiple=True,
    metavar="DIR|LIST|STORE",
    help="Recordings: a folder, glob, CSV list, or mel store of `data precompute`. May be repeated.",
)
@click.option(
    "--labelled",
    type=EXISTING_FOLDER,
    metavar="DATASET",
    help="Data set with labels, to measure what is learnt.",
)
@click.option(
    "--fold",
    type=click.IntRange(min=0),
    help="Of --labelled: what it is measured on isn't heard. [default: 0]",
)
@click.option("--out", type=ANY_PATH, metavar="PRE", help="The result: a new folder. [default: runs/<time>]")
@click.option("--resume", is_flag=True, help="Go on with what is in --out or the newest run.")
@partial(config_options, default="contrastive")
def pretrain(
    data: tuple[str, ...],
    labelled: Path | None,
    fold: int | None,
    out: Path | None,
    resume: bool,
    config_name: str,
    overrides: tuple[str, ...],
) -> None:
    """Teach a backbone to hear, from recordings without labels.

    \b
    keras-birds pretrain --data recordings --out runs/pre
    keras-birds pretrain --data recordings --data sites.csv --labelled birdclef --fold 0 --out runs/pre
    keras-birds train --data birdclef --config recommended --set model.initial=runs/pre

    Two parts of each clip, apart in time where there is room and augmented each by itself, shall be more alike than
    parts of different clips (SimCLR; contrastive.similarity = "bilinear" is COLA's). Long recordings give as many clips
    as they have room for, at most 720 each. Settings of a head and its loss are for `train` alone.

    With --labelled, each epoch tells how well the nearest of the fold's training recordings name those that it
    validates on (probe_macro_auc): nothing of these labels is learnt, unless contrastive.use_labels asks for it. The
    recordings of DATASET that the fold doesn't train on are left out of what is heard, wherever they lie: known by
    place, content, or number in an archive. So are soundscapes of `data soundscapes` in which one of them is heard.

    The folder gets backbone.keras, which model.initial takes, history.csv and history.png (loss and probe by epoch),
    manifest.csv (what became of each recording), pretraining.json and the settings.

    After Ctrl-C or a kill, the same command with --resume goes on, and ends as it would have without.
    """
    from keras_birds.config import Config

    if fold is not None and labelled is None:
        raise click.UsageError(f"--fold is one of --labelled DATASET. Received: {fold}, without it")
    config = Config.load(config_name, overrides)
    from keras_birds.suppress_output import import_tensorflow_quietly

    import_tensorflow_quietly()
    from keras_birds.plots.figure import save_png
    from keras_birds.plots.pretraining import pretraining_figure
    from keras_birds.training.pretrain import pretrain as pretrain_here

    with make_reporter() as reporter:
        try:
            result = pretrain_here(config, data, out, labelled, fold or 0, resume, reporter)
        except KeyboardInterrupt:
            reporter.log("Stopped. The same command with --resume goes on after the last whole epoch.")
            raise
    save_png(
        pretraining_figure(result.history, f"Pretraining on {result.clips} clips"), result.out / "history.png"
    )
    probe = f", probe macro AUC {result.probe_macro_auc:.4f}" if labelled else ""
    click.echo(
        f"Backbone: {result.out / 'backbone.keras'}, of {result.clips} clips ({result.clip_seconds / 3600:.2f} h) of "
        f"{result.recordings} recordings{probe}\n"
        f"Next: keras-birds train --data DIR --config recommended --set model.initial={result.out}"
    )
