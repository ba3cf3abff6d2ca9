"""The workloads against their targets, each a ratio measured in alternation in one process.

    python benchmarks/workloads.py                 # all, at sizes that end in some minutes
    python benchmarks/workloads.py stock style     # some of them
    python benchmarks/workloads.py --full style    # at 384 pixels; slow

Beside each stands the machine's own limit: what it does when it only multiplies matrices, or only
convolves, in the shapes of the workload. Status 1 when a target is missed.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
WORKLOADS = Path(__file__).parents[1] / "workloads"
sys.path.insert(0, str(WORKLOADS))

from appendix_c import AppendixC

import captioning.options
import captioning.train
import mnist.dataset
import mnist.options
import mnist.train
import stock.dataset
import stock.model
import stock.options
import stock.train
import style.images
import style.options
from captioning.dataset import Dataset, Shard
from captioning.model import DIM_IN, Captioner
from common.cluster import Cluster
from common.log import Log
from common.options import Options
from common.program import Session
from common.training import Call, prefetch
from stock.model import LAYERS, Forecaster
from style import vgg19
from style.grid import Cell, grid
from style.optimizers import LBFGS, Adam
from style.transfer import StyleTransfer

ROUNDS, STEPS = 3, 40

Shape = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Result:
    """``value`` against ``target``; ``at_most`` where less is better.

    Without a target it is an option that is measured so that nobody has to assume what it brings.
    """

    what: str
    value: float
    target: float | None = None
    unit: str = "x"
    at_most: bool = False

    @property
    def met(self) -> bool:
        if self.target is None:
            return True
        return self.value <= self.target if self.at_most else self.value >= self.target

    @override
    def __str__(self) -> str:
        told = f"  {self.what:62s} {self.value:9.3g} {self.unit:10s}"
        if self.target is None:
            return told.rstrip()
        sign = "<=" if self.at_most else ">="
        return f"{told} {sign} {self.target:g}{'' if self.met else '   MISSED'}"


def main() -> None:
    options = _parse()
    import tensorflow as tf

    results: list[Result] = []
    for name in options.workloads or list(BENCHMARKS):
        print(f"{name}:", flush=True)
        for result in BENCHMARKS[name](tf, full=options.full):
            print(result, flush=True)
            results.append(result)
    sys.exit(0 if all(result.met for result in results) else 1)


def measure_stock(tf: Any, *, full: bool) -> Iterator[Result]:  # noqa: ARG001 - it has one size
    """Both programs train on the same batches and look at the whole sets every 50 of them."""
    rows = stock.dataset.ROWS
    data = stock.dataset.split(stock.dataset.generate(rows))
    ours = {
        look: Forecaster(
            tf, tf.distribute.get_strategy(), stock.dataset.STOCKS, seed=1, xla=True, chunk=50
        )
        for look in ("float32", "bf16")
    }
    for look, program in ours.items():
        program.set_data(data, bf16=look == "bf16")
    theirs = AppendixC(tf, data, stock.model.initial_weights(stock.dataset.STOCKS, 1))
    batches = np.random.default_rng(1).integers(0, len(data.train_y), (50, 256)).astype(np.int32)

    def paper(*, look: bool) -> None:
        for batch in batches:
            theirs.train(batch)
        if look:
            theirs.look()

    def mine(program: Forecaster, *, look: bool) -> None:
        float(program.train(batches))
        if look:
            program.errors()

    whole = _alternate(
        paper=lambda: paper(look=True),
        float32=lambda: mine(ours["float32"], look=True),
        bf16=lambda: mine(ours["bf16"], look=True),
    )
    steps = _alternate(
        paper=lambda: paper(look=False), float32=lambda: mine(ours["float32"], look=False)
    )
    rate = _matmul_rate(tf, 256)
    # Forward and both gradients, but for the first layer no gradient of its inputs.
    step = 256 * 2 * (3 * _weights() - stock.dataset.STOCKS * LAYERS[0])
    most = whole["paper"] * rate / (50 * step + 2 * rows * _weights())
    what = f"whole run against appendix C (at matmul rate: {most:.2f})"
    yield Result(what, _times(whole, "float32"), 1.5)
    yield Result("the same with --eval-precision bf16", _times(whole, "bf16"), 2.0)
    most = steps["paper"] * rate / (50 * step)
    yield Result(
        f"training steps alone (at matmul rate: {most:.2f})", _times(steps, "float32"), 1.8
    )
    share = 50 * step / steps["float32"] / rate
    yield Result(f"of the machine's matmul rate, {rate / 1e9:.0f} GFLOP/s", share, 0.8)
    yield Result("steps with their batches made against ready ones", _stock_pipeline(tf), 0.95)
    yield Result("--xla against --no-xla, training steps", _stepwise(tf, data, batches))


def measure_style(tf: Any, *, full: bool) -> Iterator[Result]:
    """One evaluation of loss and gradient at 384 pixels; and how many L-BFGS needs."""
    side = 384
    transfer, cell = _transfer(tf, side)
    shape = transfer.content.shape[:2]
    rate = _convolution_rate(tf, shape)
    took = _best(lambda: transfer.evaluate(transfer.content, cell))
    share = _vgg_flops(shape) / took / rate
    yield Result(f"of the machine's convolution rate, {rate / 1e9:.0f} GFLOP/s", share, 0.8)
    compiled, _ = _transfer(tf, side, "--xla")
    seconds = _alternate(
        plain=lambda: transfer.evaluate(transfer.content, cell),
        xla=lambda: compiled.evaluate(transfer.content, cell),
    )
    yield Result("--xla, one evaluation", seconds["plain"] / seconds["xla"])
    side = side if full else 192
    transfer, cell = _transfer(tf, side)
    adam = Adam(lambda p: transfer.evaluate(p, cell)[:2], transfer.start(cell))
    goal = adam.run(150)
    needed = _evaluations_to(goal, lambda p: transfer.evaluate(p, cell)[:2], transfer.start(cell))
    what = f"evaluations of L-BFGS for Adam's loss after 150 ({side} px)"
    yield Result(what, needed / 150, 1 / 3, at_most=True)


def measure_captioning(tf: Any, *, full: bool) -> Iterator[Result]:
    """The quick preset's own score and time, its batches, and decoding alone."""
    told, took = _run("captioning")
    scored = {(r["name"], r["decoder"]): r["value"] for r in told if r["event"] == "score"}
    yield Result("held-out BLEU-4, greedy", scored["bleu4", "greedy"], 0.9, "")
    yield Result("held-out BLEU-4, beam 3", scored["bleu4", "beam 3"], None, "")
    yield Result("the whole run", took, 180, "s", at_most=True)
    yield from _captioning_steps(tf)
    speak = Captioner(tf, 35, 16)
    features = np.random.default_rng(1).normal(size=(4000 if full else 1000, DIM_IN))
    features = features.astype(np.float32)
    greedy = len(features) / _best(lambda: speak.greedy(features))
    beam = len(features) / _best(lambda: speak.beam(features, 3))
    yield Result("greedy decoding", greedy, 2000, "captions/s")
    yield Result("beam 3 decoding", beam, None, "captions/s")


def measure_mnist(tf: Any, *, full: bool) -> Iterator[Result]:  # noqa: ARG001 - it has one size
    """The quick preset's own figures: a share of right answers, and the seconds of its training."""
    told, took = _run("mnist")
    right = next(r["value"] for r in told if r.get("name") == "accuracy")
    trained = next(r["seconds"] for r in told if r.get("name") == "train" and "seconds" in r)
    yield Result("share of scikit-learn's digits that are right", right, 0.98, "")
    yield Result(f"training, of {took:.0f} s in all", trained, 10, "s", at_most=True)
    step, loaded = _mnist_step(tf)
    yield Result("steps with their batches made against ready ones", loaded / step, 0.95)
    for option in ("--xla", "--mixed-precision"):
        yield Result(f"{option}, training steps", _mnist_option(tf, option))


BENCHMARKS: dict[str, Callable[..., Iterator[Result]]] = {
    "stock": measure_stock,
    "style": measure_style,
    "captioning": measure_captioning,
    "mnist": measure_mnist,
}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", choices=[[], *BENCHMARKS], metavar="WORKLOAD")
    parser.add_argument("--full", action="store_true", help="the paper's sizes; slow")
    return parser.parse_args()


def _alternate(**programs: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each, in turns, so that a slower moment of the machine hits all of them."""
    for program in programs.values():
        program()
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            begun = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _times(seconds: dict[str, float], name: str) -> float:
    return seconds["paper"] / seconds[name]


def _best(program: Callable[[], object]) -> float:
    """Seconds of the quickest of some calls after the first, which compiles."""
    program()
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        program()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def _run(name: str) -> tuple[list[dict[str, Any]], float]:
    """The program as it is without options: its records, and its seconds."""
    with tempfile.TemporaryDirectory() as out:
        begun = time.monotonic()
        subprocess.run([sys.executable, "-m", name, "--out", out], cwd=WORKLOADS, check=True)
        took = time.monotonic() - begun
        return [json.loads(line) for line in (Path(out) / "timings.jsonl").open()], took


def _stock_pipeline(tf: Any) -> float:
    """An epoch whose batches are drawn on the way, against one whose batches are there."""
    options = stock.options.parse(_arguments("--epochs", "1"))
    data = stock.dataset.split(
        stock.dataset.generate(options.minutes, options.stocks, options.seed)
    )
    trainer = stock.train.Trainer(_session(tf, options), options, data)
    ready = list(trainer.chunks())

    def train(calls: Iterable[Call]) -> None:
        for call in calls:
            float(trainer.forecaster.train(*call.batch))

    seconds = _alternate(made=lambda: train(trainer.chunks()), loaded=lambda: train(ready))
    return seconds["loaded"] / seconds["made"]


def _captioning_steps(tf: Any) -> Iterator[Result]:
    """Pictures are rendered once, before; batches are put together while a step computes."""
    trainer, compiled = _captioning_trainer(tf), _captioning_trainer(tf, "--xla")
    see, images = _captioning_phase(trainer, "encoder")
    speak, captions = _captioning_phase(trainer, "train")
    made = "with their batches made against ready ones"
    yield Result(f"encoder's steps {made}", _made_ahead(see, images), 0.95)
    yield Result(f"captioner's steps {made}", _made_ahead(speak, captions), 0.95)
    ready = [captions(n) for n in range(STEPS)]
    at_once, _ = _captioning_phase(compiled, "train")
    seconds = _alternate(plain=lambda: _stepped(speak, ready), xla=lambda: _stepped(at_once, ready))
    yield Result("--xla, the captioner's steps", seconds["plain"] / seconds["xla"])


def _captioning_trainer(tf: Any, *arguments: str) -> captioning.train.Trainer:
    options = captioning.options.parse(_arguments("--scenes", "2000", *arguments))
    data = Dataset(None, options.scenes, options.seed)
    trainer = captioning.train.Trainer(_session(tf, options), options, data)
    data.cache(data.train)
    trainer.compute_features(range(len(data.train)))
    return trainer


def _captioning_phase(
    trainer: captioning.train.Trainer, name: str
) -> tuple[Callable[..., Any], Callable[[int], tuple[Any, ...]]]:
    """The compiled step of a phase, and its batches."""
    options = trainer.options
    shard = Shard(len(trainer.data.train), options.batch_size, 0, 1)
    phase = captioning.train.Phase(name, STEPS, options.batch_size, options.batch_size, shard=shard)
    if name == "encoder":
        images = trainer.step(phase, trainer.encoder_gradients)
        return images, lambda number: trainer.images(shard.at(number, options.seed), number)
    captions = trainer.step(phase, trainer.caption_gradients)
    return captions, lambda number: trainer.captions(shard.at(number, options.seed), number)


def _made_ahead(step: Callable[..., Any], batch_at: Callable[[int], tuple[Any, ...]]) -> float:
    ready = [batch_at(n) for n in range(STEPS)]
    seconds = _alternate(
        made=lambda: _stepped(step, (batch for _, batch in prefetch(batch_at, range(STEPS)))),
        loaded=lambda: _stepped(step, ready),
    )
    return seconds["loaded"] / seconds["made"]


def _stepped(step: Callable[..., Any], batches: Iterable[Any]) -> None:
    for batch in batches:
        loss = step(*batch)
    float(loss)


def _stepwise(tf: Any, data: stock.dataset.Split, batches: np.ndarray) -> float:
    """How many times as long 50 steps take one by one as in one compiled program."""
    programs = {
        name: Forecaster(
            tf, tf.distribute.get_strategy(), stock.dataset.STOCKS, seed=1, xla=xla, chunk=50
        )
        for name, xla in (("xla", True), ("stepwise", False))
    }
    for program in programs.values():
        program.set_data(data, bf16=False)
    seconds = _alternate(
        xla=lambda: float(programs["xla"].train(batches)),
        stepwise=lambda: float(programs["stepwise"].train(batches)),
    )
    return seconds["stepwise"] / seconds["xla"]


def _weights() -> int:
    return sum(a * b for a, b in itertools.pairwise((stock.dataset.STOCKS, *LAYERS, 1)))


def _matmul_rate(tf: Any, batch: int) -> float:
    """FLOP/s of a matmul in the shape of the widest layer."""
    into, out = LAYERS[0], LAYERS[1]
    a, b = tf.random.normal((batch, into)), tf.random.normal((into, out))
    many = 100
    multiply = tf.function(lambda: [tf.matmul(a + float(n), b) for n in range(many)])
    took = _best(lambda: multiply()[-1].numpy())
    return many * 2 * batch * into * out / took


def _convolution_rate(tf: Any, shape: Shape) -> float:
    """FLOP/s of the network's own convolutions, forward and with respect to their input, alone."""
    inputs = [
        (
            tf.random.normal((1, *size, into)),
            tf.random.normal((3, 3, into, out)),
            tf.random.normal((1, *size, out)),
        )
        for size, into, out in _convolutions(shape)
    ]

    def convolutions() -> Any:
        done = []
        for x, kernel, gradient in inputs:
            done.append(tf.nn.conv2d(x, kernel, 1, "SAME"))
            done.append(tf.nn.conv2d_transpose(gradient, kernel, tf.shape(x), 1, "SAME"))
        return done

    convolve = tf.function(convolutions)
    return _vgg_flops(shape) / _best(lambda: convolve()[-1].numpy())


def _convolutions(shape: Shape) -> list[tuple[Shape, int, int]]:
    """((height, width), channels in, channels out) of every convolution."""
    found, into, (height, width) = [], 3, shape
    for _, count, channels in vgg19.BLOCKS:
        for _number in range(count):
            found.append(((height, width), into, channels))
            into = channels
        height, width = (height + 1) // 2, (width + 1) // 2
    return found


def _vgg_flops(shape: Shape) -> float:
    """Forward, and backward with respect to the picture."""
    return float(sum(2 * 2 * 9 * h * w * i * o for (h, w), i, o in _convolutions(shape)))


def _transfer(tf: Any, side: int, *arguments: str) -> tuple[StyleTransfer, Cell]:
    """Style with these options, at ``side`` pixels, and its first picture."""
    options = style.options.parse(_arguments("--size", str(side), *arguments))
    pictures = style.images.load(None, None, side)
    network = vgg19.network(tf, None, 1)
    session = _session(tf, options)
    transfer = StyleTransfer(session, network, pictures.content, pictures.style, options)
    return transfer, grid(options)[0]


def _arguments(*arguments: str) -> list[str]:
    return ["--out", tempfile.mkdtemp(), *arguments]


def _session(tf: Any, options: Options) -> Session:
    """One worker alone."""
    log = Log(options.out / "timings.jsonl")
    return Session("benchmark", tf, tf.distribute.get_strategy(), log, options.out, Cluster())


def _evaluations_to(goal: float, evaluate: Any, start: np.ndarray) -> int:
    """How many evaluations L-BFGS makes until the loss is as low as ``goal``."""
    made, reached = 0, 0

    def counted(pixels: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal made, reached
        loss, gradient = evaluate(pixels)
        made += 1
        if loss <= goal and not reached:
            reached = made
        return loss, gradient

    LBFGS(counted, start).run(60)
    return reached or 150


def _mnist_step(tf: Any) -> tuple[float, float]:
    """Seconds of an epoch with batches made on the way, and with all of them made before."""
    trainer = _mnist_trainer(tf)
    ready = _mnist_batches(trainer)

    def made() -> None:
        for n in range(trainer.per_epoch):
            loss = trainer.step(*trainer.batch_at(n))
        float(loss)

    seconds = _alternate(made=made, loaded=lambda: _mnist_epoch(trainer, ready))
    return seconds["made"], seconds["loaded"]


def _mnist_option(tf: Any, option: str) -> float:
    """How many times as fast steps are with the option."""
    plain, other = _mnist_trainer(tf), _mnist_trainer(tf, option)
    ready = _mnist_batches(plain)
    seconds = _alternate(
        plain=lambda: _mnist_epoch(plain, ready), other=lambda: _mnist_epoch(other, ready)
    )
    return seconds["plain"] / seconds["other"]


def _mnist_trainer(tf: Any, *arguments: str) -> Any:

    options, data = mnist.options.parse(_arguments(*arguments)), mnist.dataset.scikit_learn()
    trainer = mnist.train.Trainer(_session(tf, options), options, data)
    tf.keras.mixed_precision.set_global_policy("float32")  # the layers have theirs by now
    return trainer


def _mnist_batches(trainer: Any) -> list[Any]:
    return [trainer.batch_at(n) for n in range(trainer.per_epoch)]


def _mnist_epoch(trainer: Any, batches: list[Any]) -> None:
    _stepped(trainer.step, batches)


if __name__ == "__main__":
    main()
