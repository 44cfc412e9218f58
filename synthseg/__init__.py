"""Synthetic images for segmentation: the module under the executable book.

The modules follow the data: ``volumes`` and ``phantom`` give annotated volumes, ``sampling`` cuts
crops from them, ``masks`` composes new masks, ``gan`` turns masks into images, ``segmenter`` and
``joint`` learn from real and synthetic images (``layers`` has what their networks are made of),
``metrics``, ``frechet`` and ``statistics`` judge the outcome, and ``figures`` draws it.
``parameters``, ``training`` and ``runs`` execute the chapters, ``publishing`` makes the book of
them, and ``cli`` is the command line.
"""

__version__ = "0.1.0"

METHOD_VERSION = 5
"""Raised whenever a change alters published numbers; a golden test notices such a change."""
