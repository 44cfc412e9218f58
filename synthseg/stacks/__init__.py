"""Files in, arrays out: stacks of images and masks are read and checked here, or simulated.

This package knows nothing of the method, and imports nothing else of `synthseg`. `open_source`
returns arrays and what was noticed on the way; bad data raise `DataError`.
"""

from synthseg.stacks.findings import IGNORED, DataError, Finding, Source, Stack
from synthseg.stacks.sources import locate, open_images, open_source

__all__ = ["IGNORED", "DataError", "Finding", "Source", "Stack"]
__all__ += ["locate", "open_images", "open_source"]
