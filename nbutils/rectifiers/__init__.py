"""Rectifiers behind one contract: `rectify(x, *, index=None, seed=0, through=None, **knobs)`.

`x` (n,c,h,w) are images in [0,1], and so is what comes back, for a classifier to read instead;
`index` (n,) are the images' numbers, so that randomness is a function of (seed, index) and not of
the batch; `through` is what the images are read through where a method needs that: a PixelCNN for
PixelDefend. Nothing handed in is changed.

Adding one: a function, and a line here. (`trivial.runner_up` stands beside them: the label that is
recovered without any image.)
"""

from functools import partial

from nbutils.rectifiers import pixel_defend, total_variation, trivial

RECTIFIERS = {
    # what a rectifier must beat
    "none": partial(trivial.none),
    "median": partial(trivial.median),
    "noise": partial(trivial.noise),
    # a walk to a more likely image (Song et al. 2018): their bound on CIFAR-10, and on grey images
    "pixel_defend": partial(pixel_defend.purify, eps_255=16),
    "pixel_defend_32": partial(pixel_defend.purify, eps_255=32),
    # half of the values dropped, the rest smoothed (Guo et al. 2018)
    "total_variation": partial(total_variation.total_variation),
}
