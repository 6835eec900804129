"""The recording that a visitor has chosen, the same on all pages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from keras_birds.app.example import NAME as EXAMPLE
from keras_birds.app.session import SessionFolder, display_name, plain, recordings_in
from keras_birds.text import printable

_recordings_in = st.cache_data(max_entries=16, ttl=30, show_spinner=False)(recordings_in)


@dataclass(frozen=True)
class Recording:
    """What is listened to, and what people know it by; kept: in the app's folder, so that reviews stay beside it."""

    path: Path
    name: str
    is_kept: bool

    @property
    def key(self) -> tuple[str, int, int]:
        """Changes when the file does."""
        stat = self.path.stat()
        return str(self.path), stat.st_size, stat.st_mtime_ns


@st.cache_resource(scope="session", on_release=SessionFolder.close, show_spinner=False)
def _session_folder() -> SessionFolder:
    return SessionFolder()


def choose(folder: Path | None, max_minutes: float) -> Recording | None:
    """Asks for a recording: of a folder, the example, an upload or the microphone; `None` while there is none."""
    sources = [*(["Folder"] if folder else []), "Example", "Upload", "Microphone"]
    style: Any = {"bind": "query-params", "label_visibility": "collapsed"}
    source = st.segmented_control("Recording", sources, default=sources[0], key="from", **style)
    own = _session_folder()
    if source == "Upload":
        upload = st.file_uploader(
            f"OGG, MP3, WAV, FLAC and more, at most {st.get_option('server.maxUploadSize')} MB and "
            f"{max_minutes:g} minutes. It stays in this session and goes with it.",
            key="upload",
        )
        if upload is None:
            return None
        path = own.save_upload(upload.file_id, upload.getbuffer())
        return Recording(path, display_name(upload.name), False)
    if source == "Microphone":
        sound = st.audio_input("A few seconds are enough.", sample_rate=48_000, key="microphone")
        if sound is None:
            return None
        return Recording(own.save_upload(sound.file_id, sound.getbuffer()), "microphone.wav", False)
    if source == "Folder" and folder:
        files, notes = _recordings_in(folder)
        for note in notes:
            st.caption(plain(note))
        found, place = {str(x.relative_to(folder)): x for x in files}, plain(str(folder))
        if not found:
            st.info(f"There are no recordings in {place}.")
            return None
        style = {"key": "file", "bind": "query-params", "format_func": printable}
        name = st.selectbox(f"{len(found)} recordings in {place}", list(found), **style)
        return Recording(found[name], str(found[name]), True)
    return Recording(own.example(), EXAMPLE, False)
