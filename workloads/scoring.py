"""What captioning.py scores: captions of held-out images, beside those of shuffled ones."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from examples import Data
from learning import Trainer
from records import Log

SAMPLES = 12


def evaluate(trainer: Trainer, data: Data, options: argparse.Namespace, log: Log) -> None:
    """Captions for held-out images, scored; and again with the images shuffled."""
    with log.phase("evaluate"):
        features = trainer.features(data.held_out).astype(np.float32)
        references = [example.captions() for example in data.held_out]
        speak = trainer.captioner
        decoders = {"greedy": lambda: speak.greedy(features)}
        if options.beam > 1:
            decoders[f"beam {options.beam}"] = lambda: speak.beam(features, options.beam)
        for decoder, decode in decoders.items():
            said = [data.text(row) for row in decode()]
            scores = with_shuffled(said, references)
            _log_scores(log, scores, decoder, len(said))
        write_results(options.out, data, said, scores, decoder)


def with_shuffled(said: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """What language alone gives is the score of captions that were dealt to other images."""
    dealt = np.roll(np.arange(len(said)), len(said) // 2)
    shuffled = score([said[i] for i in dealt], references)
    return score(said, references) | {f"{name}_shuffled": v for name, v in shuffled.items()}


def _log_scores(log: Log, scores: dict[str, float], decoder: str, examples: int) -> None:
    for name, value in scores.items():
        log("score", name=name, value=value, split="held_out", decoder=decoder, examples=examples)


def write_results(
    out: Path, data: Data, said: Sequence[str], scores: dict[str, float], decoder: str
) -> None:
    from PIL import Image

    (out / "samples").mkdir(exist_ok=True)
    samples = []
    for number, example in enumerate(data.held_out[:SAMPLES]):
        file = f"samples/{number:03d}.png"
        image = Image.fromarray(data.images([example])[0])
        image.resize((192, 192), Image.Resampling.NEAREST).save(out / file)
        references = list(example.captions())
        exact = said[number] in references
        samples.append(
            {"image": file, "caption": said[number], "references": references, "exact": exact}
        )
    held = (
        "a tenth of the images, by a hash of their id"
        if data.real
        else ("combinations of colours, shapes and places that never occur in training")
    )
    results = {
        "workload": "captioning",
        "scores": scores,
        "samples": samples,
        "notes": [f"held out: {held}", f"decoder: {decoder}"],
    }
    text = json.dumps(results, indent=2) + "\n"
    (out / "results.json").write_text(text, encoding="utf-8")


def score(said: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU-1 to 4 of the corpus by sacrebleu, words split at spaces; and how many are exact."""
    from sacrebleu.metrics import BLEU

    most = max(map(len, references))
    streams = [[r[i] if i < len(r) else None for r in references] for i in range(most)]
    scores = {}
    for order in (1, 2, 3, 4):
        metric = BLEU(max_ngram_order=order, tokenize="none", smooth_method="none", force=True)
        scores[f"bleu{order}"] = metric.corpus_score(list(said), streams).score / 100
    exact = [text in of for text, of in zip(said, references, strict=True)]
    return {**scores, "exact_match": sum(exact) / len(exact)}
