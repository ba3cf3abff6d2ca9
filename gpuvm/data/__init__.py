"""Data for workloads: known files, cached and verified, and the user's own files.

    data.fetch("vgg19", events)     # downloads it to the cache once
    data.resolve("@vgg19")          # a known file; @./mine.h5 is a local file

A workload's argument that begins with ``@``, or whose value does (``--data=@./prices.csv``), refers
to such a file or folder; it is sent to a guest once, by content.
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
