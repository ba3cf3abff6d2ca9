"""What workloads can use beyond what they make themselves: known files, cached and checked.

    data.fetch("vgg19", events)     # once, into the cache, by its known hash
    data.resolve("@vgg19")          # the cached file; @./mine.h5 is a file of one's own

An argument of a workload that begins with ``@`` names such a file; guests get it once, by content.
"""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpuvm import paths
from gpuvm.errors import BadInput, GpuvmError, NotFound
from gpuvm.events import Events

CHUNK = 1 << 20
TIMEOUT_S = 30


@dataclass(frozen=True)
class Known:
    """``digest`` is ALGORITHM:HEX as its publisher gives it; ``use`` is how a workload takes it."""

    name: str
    file: str
    url: str
    digest: str
    size_mib: int
    use: str

    @property
    def path(self) -> Path:
        """Where it is once it was fetched."""
        return paths.cache_dir() / "data" / self.file


_KERAS = "https://storage.googleapis.com/tensorflow"
# Names and hashes are those that Keras itself checks (keras/src/applications, keras/src/datasets).
KNOWN = {
    known.name: known
    for known in (
        Known(
            "vgg19",
            "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
            f"{_KERAS}/keras-applications/vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "md5:253f8cb515780f3b799900260a226db6",
            77,
            "gpuvm run style -- --weights @vgg19",
        ),
        Known(
            "vgg16",
            "vgg16_weights_tf_dim_ordering_tf_kernels.h5",
            f"{_KERAS}/keras-applications/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels.h5",
            "md5:64373286793e3c8b2b4e3219cbf3544b",
            528,
            "gpuvm run captioning -- --vgg16-weights @vgg16",
        ),
        Known(
            "mnist",
            "mnist.npz",
            f"{_KERAS}/tf-keras-datasets/mnist.npz",
            "sha256:731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
            11,
            "gpuvm run mnist -- --data @mnist",
        ),
    )
}


def fetch(name: str, events: Events) -> Path:
    """Downloads it, unless it is there; a file with another hash is thrown away.

    Raises NotFound for a name, GpuvmError when it cannot be had.
    """
    known = _known(name)
    if is_right(known, known.path):
        return known.path
    known.path.parent.mkdir(parents=True, exist_ok=True)
    half = known.path.with_suffix(".half")
    try:
        _download(known, half, events)
    except (OSError, urllib.error.URLError) as error:
        half.unlink(missing_ok=True)
        raise GpuvmError(
            f"{known.url}: {getattr(error, 'reason', None) or error}",
            hint=f"without a network: put the file at {known.path} yourself",
        ) from None
    if not is_right(known, half):
        half.unlink()
        raise GpuvmError(f"{known.url}: its hash is not {known.digest}; it was thrown away")
    half.replace(known.path)
    return known.path


def resolve(argument: str) -> Path | None:
    """The local file that an argument such as ``@vgg19`` or ``@./mine.h5`` names; None for others.

    Raises NotFound and BadInput.
    """
    if not argument.startswith("@") or len(argument) == 1:
        return None
    name = argument[1:]
    own = Path(name)
    if "/" in name or own.exists():
        if not own.is_file():
            raise BadInput(f"{argument}: no such file")
        return own
    known = _known(name)
    if not known.path.exists():
        raise BadInput(f"{argument} is not here yet", hint=f"gpuvm data fetch {name}")
    return known.path


def is_right(known: Known, file: Path) -> bool:
    if not file.exists():
        return False
    algorithm, _, wanted = known.digest.partition(":")
    return _digest(file, algorithm) == wanted


def content(file: Path) -> str:
    """What a guest knows the file by: the beginning of its SHA-256."""
    return _digest(file, "sha256")[:24]


def names(known: Sequence[str] | None) -> list[str]:
    """All of them when none is named. Raises NotFound."""
    return [_known(name).name for name in known or KNOWN]


def _known(name: str) -> Known:
    if name not in KNOWN:
        raise NotFound("data file", name, list(KNOWN))
    return KNOWN[name]


def _digest(file: Path, algorithm: str) -> str:
    with file.open("rb") as content_of:
        return hashlib.file_digest(content_of, algorithm).hexdigest()


def _download(known: Known, into: Path, events: Events) -> None:
    with (
        urllib.request.urlopen(known.url, timeout=TIMEOUT_S) as source,  # noqa: S310 - https above
        into.open("wb") as target,
    ):
        total, done = int(source.headers.get("Content-Length") or 0), 0
        while block := source.read(CHUNK):
            target.write(block)
            done += len(block)
            if total:
                text = f"{done >> 20} of {total >> 20} MiB"
                events.progress(known.name, "download", done / total, text)
