"""The phases of the last provisioning that changed something, for the reports of later runs."""

from pathlib import Path

from gpuvm import paths
from gpuvm.events import Event, JsonlSink


def provisioning_record(vcenter_uuid: str, deployment: str) -> Path:
    """A file of events (docs/results-format.md), on this machine only; it decides nothing."""
    return paths.state_dir() / "provisioning" / vcenter_uuid / f"{deployment}.jsonl"


class Recorder:
    """A sink that holds events back until it is known that they are worth a record."""

    def __init__(self) -> None:
        self._held: list[Event] = []
        self._sink: JsonlSink | None = None

    def __call__(self, event: Event) -> None:
        if self._sink is None:
            self._held.append(event)
        else:
            self._sink(event)

    def keep(self, file: Path) -> None:
        """Replaces the record in ``file`` by what was held and what is to come."""
        file.unlink(missing_ok=True)
        self._sink = JsonlSink(file)
        for event in self._held:
            self._sink(event)
        self._held.clear()

    def close(self) -> None:
        if self._sink is not None:
            self._sink.close()
