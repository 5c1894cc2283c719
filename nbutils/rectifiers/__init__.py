"""Rectifiers behind one contract: `rectify(x, *, index=None, seed=0, through=None, **knobs)`.

`x` (n,c,h,w) are images in [0,1], and so is what comes back, for a classifier to read instead;
`index` (n,) are the images' numbers, so that randomness is a function of (seed, index) and not of
the batch; `through` is what the images are read through where a method needs that: a PixelCNN for
PixelDefend, a fitted detector for GCD. Nothing handed in is changed.

Adding one: a function, and a line here. (`trivial.runner_up` stands beside them: the label that is
recovered without any image.)
"""

from functools import partial

from nbutils.rectifiers import gcd, pixel_defend, total_variation, trivial

RECTIFIERS = {
    # suspect pixels replaced (paper 004): alpha on the range of the gradient (eq 12) or a share of
    # the pixels (its text), as many at random, and the gradient through to the image
    "gcd": partial(gcd.rectify, reading="range"),
    "gcd_share": partial(gcd.rectify, reading="share"),
    "gcd_random": partial(gcd.rectify, reading="range", guided=False),
    "gcd_share_random": partial(gcd.rectify, reading="share", guided=False),
    "gcd_to_image": partial(gcd.rectify, reading="range", to_image=True),
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
