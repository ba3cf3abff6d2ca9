"""Style transfer: one picture's content in another one's style, as in the paper's use case 1.

    python -m style --out out
    python -m style --out out --content bridge.jpg --style night.jpg --weights vgg19.h5
    python -m style --out out --content-weights 0:2:5 --style-weights 0:10:5
    python -m style --out all --gather out-of-vm-1 out-of-vm-2

in the folder workloads/; see its README.md for the output. Features are VGG19's. Each loss is
divided by the norm of its target, so that the paper's ranges, content 0 to 2 and style 0 to 10,
mean the same for every pair of pictures. A grid of weights makes a picture for each pair and a
contact sheet (figures 3 to 6); with several workers each makes its share of the grid.
"""
