"""What workloads can use beyond what they make themselves: known files, cached and checked.

    data.fetch("vgg19", events)     # once, into the cache, by its known hash
    data.resolve("@vgg19")          # what it is for a guest; @./mine.h5 is a file of one's own

An argument of a workload that begins with ``@``, or whose value does (``--data=@./prices.csv``),
names such a file or folder; guests get it once, by content.
"""

from gpuvm.data.catalogue import BY_HAND, KNOWN, ByHand, Entry, Known
from gpuvm.data.checksums import fetch, here, is_right, names
from gpuvm.data.naming import Named, file, folder, known_file, resolve

__all__ = [
    "BY_HAND",
    "KNOWN",
    "ByHand",
    "Entry",
    "Known",
    "Named",
    "fetch",
    "file",
    "folder",
    "here",
    "is_right",
    "known_file",
    "names",
    "resolve",
]
