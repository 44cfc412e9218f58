"""Execute the notebooks in ``book/exercises/``, with their solutions and without.

    python workflow/exercises.py [NAME ...]

With them, each cell must succeed. Where the stored outputs are not those of the stored code, the
new ones are written into the notebook, and the exit status is 1. Without, as students get them,
nothing but a blank may stop a cell.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from synthseg.command.publishing import outputs_fingerprint, with_outputs
from synthseg.exercises import for_students, notebooks
from synthseg.keys import code_cells, code_fingerprint
from synthseg.project import sha256, write_text


def execute(notebook: nbformat.NotebookNode, folder: Path, **options: bool) -> None:
    """Execute a notebook in place, in a fresh kernel."""
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=300,  # seconds a cell
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
        **options,
    )
    client.execute(stderr=subprocess.DEVNULL)  # messages of libraries


def stamp(notebook: nbformat.NotebookNode) -> str:
    """Fingerprint of code and outputs, stored when they belong together."""
    return sha256([code_fingerprint(notebook), outputs_fingerprint(notebook)])


def problems(path: Path) -> list[str]:
    """What is wrong with a notebook."""
    stored, executed, student = (nbformat.read(path, as_version=4) for _ in range(3))
    try:
        execute(executed, path.parent)
    except CellExecutionError as error:
        return [str(error)]
    found = []
    if stored.metadata.get("executed") != stamp(stored):
        renewed = with_outputs(stored, executed)
        renewed.metadata["executed"] = stamp(renewed)
        write_text(path, nbformat.writes(renewed) + "\n")
        found.append("its outputs were not of this code: they have been written anew")
    student = for_students(student)
    if len(student.cells) == len(stored.cells):
        return found  # nothing was left out
    execute(student, path.parent, allow_errors=True)
    for cell in code_cells(student):
        for output in cell.outputs:
            if output.output_type == "error" and output.ename != "NotImplementedError":
                found.append(f"for students, cell {cell.id}: {output.ename}: {output.evalue}")
    return found


def main(names: list[str]) -> int:
    """Execute the named notebooks, or all; 1 if something is wrong."""
    # Kernels inherit these, as in workflow/chapter.py.
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    os.environ.pop("MPLBACKEND", None)
    wrong = 0
    for path in notebooks():
        if names and path.stem not in names:
            continue
        begun = time.monotonic()
        found = problems(path)
        took = time.monotonic() - begun
        print(f"{path.stem}  {'; '.join(found) or 'good'}  ({took:.0f} s)", flush=True)
        wrong += bool(found)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
