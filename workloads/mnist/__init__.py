"""Handwritten digits with a small convolutional network: the demo of "Virtualizing Deep Learning".

    python -m mnist --out out                        # scikit-learn's digits, offline
    python -m mnist --out out --data mnist.npz
    python -m mnist --out out --data download --preset paper

in the folder workloads/; see its README.md for the output.
"""
