"""Image captioning: CNN features -> LSTM, alone or over several machines.

On one machine (or python -m captioning train --out out):
    python -m captioning --out out
On four, the same command on each, with TF_CONFIG naming all of them and which one this is:
    export TF_CONFIG='{"cluster": {"worker": ["a:2222", "b:2222", "c:2222", "d:2222"]},
                       "task": {"type": "worker", "index": 0}}'
    python -m captioning --out out
Real images, with VGG16's features where its weights are available:
    python -m captioning --out out --data flickr8k/ --vgg16-weights vgg16.h5
With a trained run:
    python -m captioning caption bus.jpg --run out
    python -m captioning evaluate --run out --beam 3

All in the folder workloads/; see its README.md for the output. The sizes are those of the paper's
appendix D: features 4096, embedding 256, hidden 256, captions of up to 15 words. Each
worker computes gradients on its own shard of the examples; they are summed.
"""
