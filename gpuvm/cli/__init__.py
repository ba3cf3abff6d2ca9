"""The command line. Only this package imports typer and rich; output.py prints the results."""
