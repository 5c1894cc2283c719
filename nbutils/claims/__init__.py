"""The papers' claims, each a function of a run's published tables; `rule` says how a verdict is
reached.

Each returns its cells and its control as `rule.Evidence`. Scope, admitted cells, margins and the
control stand in its docstring.
"""

from nbutils.claims import li, li_rectifier, model_based, white_box, ye, zhang

CLAIMS = {
    "000.C1": model_based.learned_map_moves,
    "000.C2": model_based.spd_beats_smd,
    "000.C3": model_based.spd_beats_id,
    "000.C4 (maps)": model_based.gradient_maps_stay,
    "000.C4 (underflow)": model_based.softmax_underflows,
    "000.C4": model_based.jsd_no_better,
    "000.C5": model_based.spd_finds_smaller,
    "000.C6": model_based.only_saliency_sees_small,
    "000.C7": model_based.transfer_within_norm,
    "000.C8": model_based.one_for_all,
    "000.C9": white_box.alternating_fools,
    "000.C10": white_box.training_hardens,
    "002.C1": zhang.finds_every_attack,
    "002.C2": zhang.jacobian_adds,
    "002.C3": zhang.small_finds_large,
    "002.C4": zhang.strong_finds_weak,
    "002.C5": zhang.fgsm_and_jsma_apart,
    "002.C6": zhang.works_on_photographs,
    "002.C7": white_box.second_round_fails,
    "002.C8": zhang.first_layer_enough,
    "002.C8 (second round)": white_box.first_layer_falls,
    "002.C9": white_box.second_round_breaks_rivals,
    "002.C10": zhang.perturbation_follows_jacobian,
    "003.C1": ye.emphasis_changes_attacks,
    "003.C2": ye.region_differs,
    "003.C3": ye.finds_four_fifths,
    "003.C4": ye.colours_detect,
    "003.C5": ye.zero_mean_detects,
    "003.C6": ye.map_adds,
    "003.C7": ye.on_par_with_squeezing,
    "003.C8": ye.honest_labels_kept,
    "003.C9": white_box.saliency_guards_colours,
    "003.C10": ye.not_at_32_pixels,
    "004.C1": li.sensitivity_grows_at_border,
    "004.C2": li.l2_is_different,
    "004.C3": li.norm_is_enough,
    "004.C4": li.linf_in_pixels_alone,
    "004.C5": li.gcd_finds_every_attack,
    "004.C5 (half)": li.entropy_keeps_better_half,
    "004.C6": li.gcd_beats_rivals,
    "004.C7": li_rectifier.gradient_marks_pixels,
    "004.C8": li_rectifier.rectifier_beats_rivals,
    "004.C9": white_box.gcd_defeats,
    "004.C10": li_rectifier.inner_rate_is_best,
    "X1": zhang.gradient_map_finds_cw,
    "X4": li.beats_trivial_scalars,
}
