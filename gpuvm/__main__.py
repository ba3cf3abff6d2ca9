"""``python -m gpuvm`` is the command line."""

from gpuvm.cli.main import main

main()
