"""Stock prediction: an index from its stocks' prices of the same minute (the paper's use case 2).

    python -m stock --out out
    python -m stock --out out --preset paper --data data_stocks.csv

in the folder workloads/; see its README.md for the output. Feed-forward 1024-512-256-128 with ReLU,
Adam, batches of 256, the mean squared error of the training and test sets every 50 batches
(appendix C). The first 80 % in time are the training set. Without --data prices are generated in
the paper's format (41,266 minutes, 500 stocks).
"""
