"""Saliency: what a classifier looks at, each a map `(model, x, labels) -> (n,1,h,w)`; the learned
one is a network of its own (`learned`).
"""

from functools import partial

from nbutils.saliency import grad_cam, gradients

MAPS = {
    "logit_gradient": partial(gradients.gradient_map, of="logit"),
    "softmax_gradient": partial(gradients.gradient_map, of="softmax"),
    "cross_entropy_gradient": partial(gradients.gradient_map, of="cross_entropy"),
    "grad_cam": grad_cam.grad_cam,
}
