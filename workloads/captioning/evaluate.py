"""captioning's scores on held-out images, and with the images shuffled."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from captioning.dataset import Dataset
from captioning.model import Captioner
from captioning.options import NAME
from common.program import Session
from common.results import sample, write_results

SAMPLES = 12


class Trained(Protocol):
    """A captioner and the features of examples."""

    captioner: Captioner

    def features(self, examples: Sequence[Any]) -> np.ndarray: ...


def evaluate(session: Session, trained: Trained, data: Dataset, beam: int) -> None:
    """Scores captions of the held-out images, and again with the images shuffled.

    results.json has the scores of beam search, or of greedy decoding with a ``beam`` of 1.
    """
    with session.log.phase("evaluate"):
        features = trained.features(data.held_out).astype(np.float32)
        references = [example.captions() for example in data.held_out]
        captioner = trained.captioner
        decoders: dict[str, Callable[[], np.ndarray]] = {
            "greedy": lambda: captioner.greedy(features)
        }
        if beam > 1:
            decoders[f"beam {beam}"] = lambda: captioner.beam(features, beam)
        for decoder, decode in decoders.items():
            captions = [data.text(row) for row in decode()]
            scores = _with_shuffled(captions, references)
            _log_scores(session, scores, decoder, len(captions))
        samples = _write_samples(session, data, captions)
    notes = [f"held out: {data.split}", f"decoder: {decoder}"]
    write_results(session.out, NAME, scores, samples, notes)


def score(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Corpus BLEU-1 to 4 by sacrebleu, words split at spaces, and the share of exact matches."""
    from sacrebleu.metrics import BLEU

    most = max(map(len, references))
    streams = [[r[i] if i < len(r) else None for r in references] for i in range(most)]
    scores = {}
    for order in (1, 2, 3, 4):
        metric = BLEU(max_ngram_order=order, tokenize="none", smooth_method="none", force=True)
        scores[f"bleu{order}"] = metric.corpus_score(list(captions), streams).score / 100
    exact = [text in of for text, of in zip(captions, references, strict=True)]
    return {**scores, "exact_match": sum(exact) / len(exact)}


def _with_shuffled(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """The scores, and those of the captions for other images: what language alone achieves."""
    half = len(captions) // 2
    shuffled = score([*captions[-half:], *captions[:-half]], references)
    return score(captions, references) | {f"{name}_shuffled": v for name, v in shuffled.items()}


def _log_scores(session: Session, scores: dict[str, float], decoder: str, examples: int) -> None:
    for name, value in scores.items():
        session.log(
            "score", name=name, value=value, split="held_out", decoder=decoder, examples=examples
        )


def _write_samples(
    session: Session, data: Dataset, captions: Sequence[str]
) -> list[dict[str, Any]]:
    from PIL import Image

    (session.out / "samples").mkdir(exist_ok=True)
    samples = []
    for number, example in enumerate(data.held_out[:SAMPLES]):
        file = f"samples/{number:03d}.png"
        image = Image.fromarray(data.images([example])[0])
        image.resize((192, 192), Image.Resampling.NEAREST).save(session.out / file)
        references = example.captions()
        samples.append(
            sample(file, captions[number], references, exact=captions[number] in references)
        )
    return samples
