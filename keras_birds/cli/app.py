"""`keras-birds app`: hear, see and check recordings in the browser."""

from pathlib import Path

import click

from keras_birds.cli.options import COUNT, EXISTING_FOLDER, LENGTH, NEW_FOLDER, model_path
from keras_birds.packages import require_packages

_PAGE = Path(__file__).resolve().parents[1] / "app" / "page.py"


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--model", type=model_path, metavar="MODEL", help="Model that the page shows first.")
@click.option("--folder", type=EXISTING_FOLDER, help="Recordings to choose from; reviews stay beside them.")
@click.option(
    "--embeddings", type=EXISTING_FOLDER, metavar="STORE", help="Search, mark and teach in this store."
)
@click.option(
    "--reviews", type=NEW_FOLDER, metavar="DIR", help="Where marks of STORE are kept. [default: STORE/marks]"
)
@click.option("--max-upload-mb", type=COUNT, default=200, help="Refuse larger uploads.")
@click.option("--max-minutes", type=LENGTH, default=180.0, help="Refuse longer recordings.")
@click.argument("streamlit_options", nargs=-1, type=click.UNPROCESSED, metavar="[-- STREAMLIT OPTIONS]")
def app(
    model: Path | None,
    folder: Path | None,
    embeddings: Path | None,
    reviews: Path | None,
    max_upload_mb: int,
    max_minutes: float,
    streamlit_options: tuple[str, ...],
) -> None:
    """Hear, see and check recordings in the browser.

    \b
    keras-birds app                                  # an example, and what you upload
    keras-birds app --folder recordings --model runs/all
    keras-birds app --embeddings season1.emb         # search, hear, mark, teach
    keras-birds app -- --server.port 8600 --server.address 0.0.0.0

    The page gives the same numbers as `keras-birds predict`: the answer, a timeline of all windows, and detections on
    the spectrogram, to be heard one by one and marked right, wrong, unsure or as another species. Marks in --folder lie
    beside each recording (NAME.ogg.reviews.csv); `keras-birds calibrate --reviews DIR` and `keras-birds train --set
    data.reviews=DIR` read them. Uploads stay on the machine that runs the app and go with the visitor's session.

    --embeddings adds the page "Find": a call, the windows most like it in a folder that `keras-birds embed` wrote,
    marks by keys, and a head that learns from them in a second and chooses what to mark next. Marks lie in
    DIR/marks.reviews.csv, which `keras-birds train --embeddings STORE --reviews DIR --config head` reads.

    What follows -- goes to `streamlit run`. The page is for this machine only unless you set --server.address.
    """
    if reviews and not embeddings:
        raise click.UsageError(
            "--reviews is where marks of --embeddings STORE are kept. Received: no --embeddings"
        )
    require_packages("The app", "app", ("streamlit", "altair"))
    from streamlit.web.cli import main as streamlit

    from keras_birds.app import opened
    from keras_birds.app.analysis import warm_up

    warm_up(str(model) if model else None)
    if embeddings:
        opened.warm_up(embeddings, str(model) if model else None)

    settings = {
        "--server.address": "localhost",
        "--server.maxUploadSize": str(max_upload_mb),
        "--server.fileWatcherType": "none",
        "--runner.magicEnabled": "false",
        "--browser.gatherUsageStats": "false",
        "--client.toolbarMode": "viewer",
    }
    given = {x.partition("=")[0] for x in streamlit_options}
    defaults = [x for name, value in settings.items() if name not in given for x in (name, value)]
    given_paths = {"--model": model, "--folder": folder, "--embeddings": embeddings, "--reviews": reviews}
    own = [x for name, path in given_paths.items() if path for x in (name, str(path))]
    own += ["--max-minutes", f"{max_minutes:g}"]
    streamlit.main(
        ["run", str(_PAGE), *defaults, *streamlit_options, "--", *own],
        prog_name="keras-birds app",
        standalone_mode=False,
    )
