"""Draw the diagrams of the book: ``python -m diagrams`` writes them into ``book/_diagrams/``."""

from diagrams import data, method, networks
from synthseg.project import project_root

DRAWINGS = {
    "chain": method.chain,
    "fibsem": data.fibsem,
    "dice": data.dice,
    "aliasing": data.aliasing,
    "split": data.split,
    "unet": networks.unet,
    "patchgan": networks.patchgan,
    "gan_step": networks.gan_step,
    "dense_block": networks.dense_block,
    "yardsticks": method.yardsticks,
    "frechet": method.frechet_clouds,
    "composing": method.composing,
    "ladder": method.ladder,
    "halves": method.halves,
    "joint": method.joint,
}
"""What each file shows."""

if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        path = project_root() / "book" / "_diagrams" / f"{name}.svg"
        path.write_text(str(draw()), encoding="utf-8")
