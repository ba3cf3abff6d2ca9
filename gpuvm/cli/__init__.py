"""The only importer of typer and rich: commands return results, output.py renders them."""
