"""A page on which pictures are made: `gpuvm studio`.

    Queue ──> Maker: OnVMs or OnThisMachine ──> gpuvm.runs ──> runs/ ──> gallery
      └────────────────────── page (Gradio) ──────────────────────────────┘

``jobs`` is the queue and knows no page; ``makers`` make a picture; ``gallery`` reads what was made
from the records of runs alone; ``page`` shows all of it, behind ``access``, which asks for the
token. The cluster comes from the command line as a ``Site``.
"""

from gpuvm.studio.jobs import Job, Queue, Wanted
from gpuvm.studio.makers import OnThisMachine, OnVMs
from gpuvm.studio.server import Address, check_installed, open_socket, serve
from gpuvm.studio.site import Glance, Site, Table

__all__ = [
    "Address",
    "Glance",
    "Job",
    "OnThisMachine",
    "OnVMs",
    "Queue",
    "Site",
    "Table",
    "Wanted",
    "check_installed",
    "open_socket",
    "serve",
]
