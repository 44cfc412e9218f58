"""Command line: ``python -m benchmarks [NAME…]``."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.timing import Contender, Row, Summary, Worker, interleave

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("synthseg", "tensorflow", "keras", "numpy", "torch")
STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "segmenter": ("segmenter_step", {"batch": 8}),
    "GAN, resize": ("gan_step", {"batch": 8, "width": 32, "decoder": "resize"}),
    "GAN, transposed": ("gan_step", {"batch": 8, "width": 32, "decoder": "transposed"}),
    "joint": ("joint_step", {"batch": 8, "width": 32, "decoder": "resize"}),
}
"""The training steps: maker and options, the same for the module and for PyTorch."""
PIECES = ("dropout", "pointwise", "double_and_convolve", "all")
"""What `synthseg.fast` does in another way than stock Keras."""
TORCH = {
    "PyTorch": {"channels_last": False, "compiled": False},
    "PyTorch, channels last": {"channels_last": True, "compiled": False},
    "PyTorch, channels last, compiled": {"channels_last": True, "compiled": True},
}

Progress = Callable[[str], None]
worker = cache(Worker)  # each process starts when it is first needed
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def step(*names: str) -> Callable[[int, Progress, str], list[Row]]:
    """The module's own steps."""

    def measure(rounds: int, progress: Progress, data: str) -> list[Row]:
        rows = []
        for name in names:
            maker, options = STEPS[name]
            ours = {"ours": Contender(worker(), f"steps:{maker}", options)}
            rows += interleave(ours, rounds, progress).rows(f"{name} step", "ours")
        return rows

    return measure


def layers(rounds: int, progress: Progress, data: str) -> list[Row]:
    """What each piece of the fast path is worth: the step with stock Keras in its place."""
    rows = []
    for name in ("segmenter", "GAN, resize"):
        maker, options = STEPS[name]
        contenders = {"fast": Contender(worker(), f"steps:{maker}", options)}
        for piece in PIECES:
            stock = {**options, "stock": piece}
            contenders[f"stock {piece}"] = Contender(worker(), f"steps:{maker}", stock)
        rows += interleave(contenders, rounds, progress).rows(f"{name} step, layers", "fast")
    return rows


def peers(rounds: int, progress: Progress, data: str) -> list[Row]:
    """PyTorch's best variant against ours."""
    if util.find_spec("torch") is None:
        return [Row("peers", "PyTorch", None, "s", "not installed: pip install -e '.[bench]'")]
    # Threads that spin while they wait are faster on an idle machine, and far slower on another.
    waiting = {
        "": worker(OMP_WAIT_POLICY="passive", KMP_BLOCKTIME="0"),
        ", spinning": worker(OMP_WAIT_POLICY="active"),
    }
    rows = []
    for name in ("segmenter", "GAN, resize", "GAN, transposed"):
        maker, options = STEPS[name]
        contenders = {"ours": Contender(worker(), f"steps:{maker}", options)}
        for variant, layout in TORCH.items():
            for how, process in waiting.items():
                peer = Contender(process, f"torch_peers:{maker}", {**options, **layout})
                contenders[variant + how] = peer
        times = interleave(contenders, rounds, progress)
        rows += times.rows(f"{name} step, peers", "ours")
        theirs = [each for each in times.seconds if each != "ours"]
        if theirs and "ours" in times.seconds:
            best = min(theirs, key=lambda each: float(np.median(times.seconds[each])))
            ratio = times.ratio(best, "ours")
            rows.append(Row(f"{name} step, peers", "PyTorch's best / ours", ratio, "x", best))
    return rows


def composing(rounds: int, progress: Progress, data: str) -> list[Row]:
    """Composing by our rule and by the original's."""
    contenders = {
        name: Contender(worker(), f"steps:{maker}", {"count": 64})
        for name, maker in (("ours", "compose"), ("original's rule", "compose_original"))
    }
    return interleave(contenders, rounds, progress, 1).rows("composing 64 masks", "original's rule")


def chapter(rounds: int, progress: Progress, data: str) -> list[Row]:
    """Chapter 3 as a user runs it, once, in a folder with runs of its own."""
    root, profile = Path(__file__).parent.parent, "cpu" if rounds > 3 else "smoke"
    progress(f"profile {profile}")
    with tempfile.TemporaryDirectory() as name:
        for entry in root.iterdir():
            if entry.name not in ("runs", "_build") and not entry.name.startswith("."):
                (Path(name) / entry.name).symlink_to(entry)
        command = [str(Path(sys.executable).parent / "synthseg"), "run", "3"]
        command += ["--profile", profile, "--data", data]
        begun = time.perf_counter()
        environment = {**os.environ, "SYNTHSEG_ROOT": name}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begun
    topic = f"chapter 3, profile {profile}, data {data}"
    if done.returncode:
        return [Row(topic, "failed", None, "s", done.stderr.strip().splitlines()[-1])]
    return [Row(topic, "whole command", Summary(seconds, seconds, seconds), "s")]


TOPICS: dict[str, Callable[[int, Progress, str], list[Row]]] = {
    "segmenter": step("segmenter"),
    "gan": step("GAN, resize", "GAN, transposed"),
    "joint": step("joint"),
    "layers": layers,
    "peers": peers,
    "composing": composing,
    "chapter": chapter,
}


def table(rows: list[Row]) -> Table:
    """Medians and quartiles."""
    shown = Table("", "", "median", "quartiles", "")
    for topic, name, summary, unit, note in rows:
        cells = ["–", ""]
        if summary is not None:
            short = unit == "s" and summary.median < 1
            values = [f"{1000 * value:.3g}" if short else f"{value:.3g}" for value in summary]
            cells = [f"{values[0]} {'ms' if short else unit}", f"{values[1]} – {values[2]}"]
        shown.add_row(topic, name, *cells, escape(note))
    return shown


def version(package: str) -> str | None:
    """None if it is not installed."""
    return metadata.version(package) if util.find_spec(package) else None


def store(path: Path, name: str, rows: list[Row], rounds: int) -> None:
    """Put a topic into the file of the day, beside the other topics."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    before[name] = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        "system": platform.platform(),
        "versions": {package: version(package) for package in PACKAGES},
        "rounds": rounds,
        "rows": [
            {**row._asdict(), "summary": row.summary and row.summary._asdict()} for row in rows
        ],
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(before, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]…", help=f"Of: {', '.join(TOPICS)}.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Turns of each contender.")] = 15,
    quick: Annotated[bool, typer.Option("--quick", help="Two rounds; nothing is stored.")] = False,
    data: Annotated[str, typer.Option(help="Data of the chapter.")] = "phantom",
) -> None:
    """Measure training steps, composing and a chapter; write benchmarks/results/DATE.json."""
    if unknown := set(names or ()) - set(TOPICS):
        raise typer.BadParameter(f"There is no {unknown}: choose from {', '.join(TOPICS)}.")
    rounds = 2 if quick else rounds
    path = RESULTS / f"{date.today().isoformat()}.json"
    with console.status("Starting …") as status:
        for name in names or TOPICS:
            rows = TOPICS[name](
                rounds, lambda text, name=name: status.update(f"{name}: {text}"), data
            )
            console.print(table(rows))
            if not quick:
                store(path, name, rows, rounds)


if __name__ == "__main__":
    typer.run(main)
