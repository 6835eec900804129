"""Commands that a notebook starts in another environment."""

import os
import subprocess
import sys


def test_backend_of_a_notebook_is_not_inherited():
    program = (
        "import os, sys, keras_birds.cli.main as m\n"
        "sys.argv = ['keras-birds', '--version']\n"
        "try:\n    m.main()\nexcept SystemExit:\n    pass\n"
        "assert 'MPLBACKEND' not in os.environ\n"
    )
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
