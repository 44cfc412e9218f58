"""Synthetic images for segmentation: the module under the executable book.

The modules follow the data: ``stacks`` reads and checks files, ``volumes`` makes annotated volumes
of them, ``sampling`` cuts crops, ``masks`` composes new masks, ``gan`` turns masks into images,
``segmenter`` and ``joint`` learn from real and synthetic images by the rules in ``arms``, and
``metrics``, ``frechet`` and ``statistics`` judge the outcome. ``training`` trains all of them,
``fast`` computes their networks faster, and ``figures`` draws. ``runs`` makes a chapter's run of
it, by ``parameters`` and ``keys``, and ``verdicts`` reads the study's tables; ``exercises`` checks
answers. What executes chapters and makes the book of them is in ``command``.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no remarks in a student's first cell

__version__ = "0.1.0"

METHOD_VERSION = 5
"""Raised whenever a change alters published numbers; a golden test notices such a change."""
