"""How a benchmark says what it found: a line for each comparison, of which all.py makes a table."""


def show(what: str, reference: str, ratio: float) -> None:
    """Prints ours / the reference, of what `what` begins with: of time and memory, less is better."""
    print(f"ratio | {what} | {reference} | {ratio:.3g}", flush=True)
