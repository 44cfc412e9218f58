"""Files in, arrays out: stacks of images and masks are read and checked here, or simulated.

This package knows nothing of the method, and imports nothing else of `synthseg`. `open_source`
returns arrays and what was noticed on the way; bad data raise `DataError`.
"""

from synthseg.stacks.findings import IGNORED, DataError, Finding, Pair, Source, Stack, gather
from synthseg.stacks.grey import open_images
from synthseg.stacks.sources import check_source, locate, open_source

__all__ = ["IGNORED", "DataError", "Finding", "Pair", "Source", "Stack"]
__all__ += ["check_source", "gather", "locate", "open_images", "open_source"]
