"""Detectors behind one contract (`base`): `score(x) -> (n,)`, continuous, higher = adversarial.

Adding one: a function or a file, and a line here. What a network `needs` beside the classifier is
handed over by `building.build`.
"""

from functools import partial

from nbutils.detectors import scalars, spectral, stand_ins, views
from nbutils.detectors.consistency import GradCamConsistency
from nbutils.detectors.gcd import with_rules
from nbutils.detectors.mahalanobis import Mahalanobis, UnsupervisedMahalanobis
from nbutils.detectors.networks import Network
from nbutils.detectors.pixel_defend import PixelDefend
from nbutils.detectors.scalars import Scalar
from nbutils.detectors.squeezing import Squeezing
from nbutils.detectors.tws import Tws

# JSD and the Jacobian alone, in the readings of paper 002: what is derived, raw or scaled image by
# image, in float32 or float64.
READINGS = {
    "": {"of": "logit", "scaled": False, "double": False},
    "_scaled": {"of": "logit", "scaled": True, "double": False},
    "_softmax": {"of": "softmax", "scaled": False, "double": False},
    "_softmax_scaled": {"of": "softmax", "scaled": True, "double": False},
    "_softmax_float64": {"of": "softmax", "scaled": False, "double": True},
    "_softmax_scaled_float64": {"of": "softmax", "scaled": True, "double": True},
    "_cross_entropy": {"of": "cross_entropy", "scaled": False, "double": False},
    "_cross_entropy_scaled": {"of": "cross_entropy", "scaled": True, "double": False},
    "_cross_entropy_float64": {"of": "cross_entropy", "scaled": False, "double": True},
    "_cross_entropy_scaled_float64": {"of": "cross_entropy", "scaled": True, "double": True},
}

DETECTORS = {
    # networks on the image (Gong et al. 2017, Grosse et al. 2017)
    "id": partial(Network, view=views.image),
    "n_plus_one": partial(Network, view=views.image, classes=True),
    # the same behind a fixed high-pass, for pictures on which the plain one collapses
    "id_high_pass": partial(Network, view=views.high_pass),
    # a logistic regression on the image's spectrum (Harder et al. 2021)
    "spectral": partial(spectral.Spectral, view=spectral.magnitudes),
    # on image and Jacobian (papers 002, 000), and on the Jacobian alone
    **{
        f"jsd{reading}": partial(Network, view=partial(views.image_and_jacobian, **knobs))
        for reading, knobs in READINGS.items()
    },
    **{
        f"jacobian{reading}": partial(Network, view=partial(views.jacobian, **knobs))
        for reading, knobs in READINGS.items()
    },
    # on the input sensitivity (paper 004's DET_IS): raw, its logarithm, without its size, its size
    "insen": partial(Network, view=views.sensitivity),
    "insen_log": partial(Network, view=partial(views.sensitivity, reading="log")),
    "insen_pattern": partial(Network, view=partial(views.sensitivity, reading="pattern")),
    "insen_norm": partial(Network, view=partial(views.sensitivity, reading="norm")),
    # GCD (paper 004) on the paper's halves, and on halves that do not collapse; each by its rule of
    # entropy and by the mean, the maximum and a stacked one
    **{f"gcd{rule}": made for rule, made in with_rules("id", "insen").items()},
    **{f"gcd_cured{rule}": made for rule, made in with_rules("id_high_pass", "insen_log").items()},
    # stand-ins for JSD: another image's Jacobian, or noise, in the Jacobian's place
    "jsd_shuffled": partial(Network, view=stand_ins.image_and_other, needs="bank"),
    "jsd_random": partial(Network, view=stand_ins.image_and_other, needs="bank"),
    # on the classifier's own layers, early and late (Metzen et al. 2017), or the first (paper 002,
    # II.C)
    "metzen_early": partial(Network, view=partial(views.layer, depth=1 / 3)),
    "metzen_late": partial(Network, view=partial(views.layer, depth=1.0)),
    "first_layer": partial(Network, view=partial(views.layer, depth=0.0)),
    "first_layer_jacobian": partial(
        Network, view=partial(views.layer, depth=0.0, with_jacobian=True)
    ),
    # through a learned saliency model (paper 000), and SPD's stand-ins, whose map says nothing of
    # the image
    "smd": partial(Network, view=views.saliency_map, needs="saliency"),
    "spd": partial(Network, view=views.salient_pixels, needs="saliency"),
    "spd_shuffled": partial(Network, view=stand_ins.shuffled_pixels, needs="saliency"),
    "spd_constant": partial(Network, view=stand_ins.constant_pixels, needs="saliency"),
    "spd_random": partial(Network, view=stand_ins.random_pixels, needs="saliency"),
    # an emphasised or transformed image is read as before (paper 003): the map, the transformation,
    # both
    "gradcam": partial(GradCamConsistency, theta=0.2),
    "colour_reversing": partial(GradCamConsistency, theta=0.0, transform="colour_reversing"),
    "zero_mean": partial(GradCamConsistency, theta=0.0, transform="zero_mean"),
    "gradcam_colour_reversing": partial(
        GradCamConsistency, theta=0.1, transform="colour_reversing"
    ),
    "gradcam_zero_mean": partial(GradCamConsistency, theta=0.1, transform="zero_mean"),
    # feature squeezing (Xu et al. 2018): the joint set for pictures of this kind, and each squeezer
    # alone
    "squeezing": partial(Squeezing),
    "squeezing_1-bit": partial(Squeezing, squeezers=("1-bit",)),
    "squeezing_2-bit": partial(Squeezing, squeezers=("2-bit",)),
    "squeezing_3-bit": partial(Squeezing, squeezers=("3-bit",)),
    "squeezing_4-bit": partial(Squeezing, squeezers=("4-bit",)),
    "squeezing_5-bit": partial(Squeezing, squeezers=("5-bit",)),
    "squeezing_6-bit": partial(Squeezing, squeezers=("6-bit",)),
    "squeezing_7-bit": partial(Squeezing, squeezers=("7-bit",)),
    "squeezing_8-bit": partial(Squeezing, squeezers=("8-bit",)),
    "squeezing_2x2": partial(Squeezing, squeezers=("2*2",)),
    "squeezing_3x3": partial(Squeezing, squeezers=("3*3",)),
    "squeezing_11-3-2": partial(Squeezing, squeezers=("11-3-2",)),
    "squeezing_11-3-4": partial(Squeezing, squeezers=("11-3-4",)),
    "squeezing_13-3-2": partial(Squeezing, squeezers=("13-3-2",)),
    "squeezing_13-3-4": partial(Squeezing, squeezers=("13-3-4",)),
    # how likely the image is among clean ones (Song et al. 2018): too unlikely, or too far from the
    # middle on either side
    "pixel_defend": partial(PixelDefend),
    "pixel_defend_two_sided": partial(PixelDefend, two_sided=True),
    # distances in the classifier's layers (Lee et al. 2018): a regression on an attack, the same
    # on images that are not moved, and without a regression
    "mahalanobis": partial(Mahalanobis),
    "mahalanobis_unmoved": partial(Mahalanobis, magnitudes=(0.0,)),
    "mahalanobis_sum": partial(UnsupervisedMahalanobis, reading="sum"),
    "mahalanobis_max": partial(UnsupervisedMahalanobis, reading="max"),
    # how hard the label is to change (Hu et al. 2019): all criteria, and each alone
    "tws": partial(Tws),
    "tws_noise": partial(Tws, criteria=("noise",)),
    "tws_targeted": partial(Tws, criteria=("targeted",)),
    "tws_untargeted": partial(Tws, criteria=("untargeted",)),
    # trivial scalars: what a detector must beat
    "max_softmax": partial(Scalar, function=scalars.max_softmax),
    "margin": partial(Scalar, function=scalars.margin),
    "entropy": partial(Scalar, function=scalars.entropy),
    "gradient_norm": partial(Scalar, function=scalars.gradient_norm),
    "noise": partial(Scalar, function=scalars.noise),
    # what paper 004 says that DET_IS learns
    "input_sensitivity": partial(Scalar, function=scalars.input_sensitivity),
    "dist_z": partial(Scalar, function=scalars.dist_z),
}
