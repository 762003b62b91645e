from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from hast_cuda import methods
from hast_cuda.cli.options import Method
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.methods import DATASETS, PRESETS, Recipe
from hast_cuda.posttraining import PostTrainingConfig
from hast_cuda.synthesis import SynthesisConfig

NAMES: tuple[str, ...] = get_args(Method)  # the command line's


def test_available() -> None:
    assert methods.available() == NAMES


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe(name: str, preset: str, dataset: str) -> None:
    found = methods.recipe(name, preset, dataset)
    assert isinstance(found, Recipe)
    assert getattr(methods, name).recipe(preset, dataset) == found


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_clipped_activations(name: str) -> None:
    """Ours has none, for every method that trains; the published ones pass it."""
    ours = methods.recipe(name).finetune
    assert ours.ste == "clipped" or not ours.iterations
    for preset in ("paper", "released"):
        assert methods.recipe(name, preset).finetune.ste == "identity"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hats",), "method is 'hats'; allowed: 'hast', 'intraq'"),
        (("hast", "best"), "preset is 'best'; allowed: 'default', 'paper', 'released'"),
        (("dfq", "paper", "mnist"), "dataset is 'mnist'; allowed: 'cifar10', 'cifar100', 'ima"),
    ],
)
def test_unknown_names(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods.recipe(*arguments)


def differing(first: Any, second: Any) -> set[str]:
    return {name for name, value in vars(first).items() if value != getattr(second, name)}


def test_hast_differs_from_its_base_by_its_three_parts() -> None:
    hast, base = (methods.recipe(name, "paper", "cifar10") for name in ("hast", "zeroq_il"))
    assert differing(hast.finetune, base.finetune) == {"label_weight", "feature_weight", "perturbation"}
    assert "difficulty_exponent" in differing(hast.synthesis, base.synthesis)
    assert base.synthesis.difficulty_exponent == 0


@pytest.mark.parametrize(
    ("dataset", "target", "margins"),
    [("cifar10", 0.95, (0.05, 0.8)), ("cifar100", 0.6, (0.02, 1.0)), ("imagenet", 1.0, (0.0, 2.0))],
)
def test_intraq(dataset: str, target: float, margins: tuple[float, float]) -> None:
    found = methods.recipe("intraq", "paper", dataset)
    assert found.synthesis.label_loss == "soft"
    assert (found.synthesis.soft_target, found.synthesis.margins) == (target, margins)
    assert found.finetune.label_weight == 1
    # crops are part of the method, so "default" keeps them
    assert methods.recipe("intraq", "default", dataset).synthesis.augment_probability == 0.5


def test_released_rates_decay_as_the_code_counts() -> None:
    found = methods.recipe("intraq", "released", "cifar10").finetune
    rates = [found.rate(i) for i in (0, 16 * 200 - 1, 16 * 200, 36 * 200, 56 * 200)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-6, 1e-7])


def test_gdfq_weighs_the_divergence_by_400_over_classes() -> None:
    found = methods.recipe("gdfq", "paper", "cifar100").finetune
    assert found.distillation_weight * found.temperature**2 == 400
    assert found.distillation_reduction == "mean"
    assert found.iterations == 396 * 200


@pytest.mark.parametrize("dataset", DATASETS)
def test_synq_adds_its_three_parts(dataset: str) -> None:
    parts = {"low_pass", "alignment", "feature_weight", "label_difficulty", "label_weight"}
    for preset, more in (("paper", {"iterations"}), ("default", set())):
        found, base = (methods.recipe(name, preset, dataset) for name in ("synq", "zeroq_il"))
        assert differing(found.finetune, base.finetune) == parts | more
        assert replace(found, finetune=base.finetune) == base
    assert methods.recipe("synq", "released", dataset) == methods.recipe("synq", "paper", dataset)


@pytest.mark.parametrize("base", ["gdfq", "qimera"])
def test_ait_changes_its_base_by_its_two_parts(base: str) -> None:
    found = methods.ait.recipe("paper", "cifar10", base)
    under = methods.recipe(base, "paper", "cifar10")
    assert found.generator == under.generator
    assert differing(found.finetune, under.finetune) == {"label_weight", "weight_decay", "flip_fraction"}
    with pytest.raises(ValueError, match="base is 'dsg'; allowed: 'gdfq', 'qimera'"):
        methods.ait.recipe("paper", "cifar10", "dsg")


def test_genie() -> None:
    paper, ours = (methods.recipe("genie", preset) for preset in ("paper", "default"))
    assert methods.recipe("genie", "released") == paper
    assert (paper.synthesis.num_images, paper.synthesis.batch_size, paper.synthesis.iterations) == (1024, 128, 4000)
    assert (paper.synthesis.generator_rate, paper.synthesis.learning_rate, paper.synthesis.swing) == (0.1, 0.01, True)
    blocks = paper.reconstruction
    assert (blocks.iterations, blocks.batch_size, blocks.drop_probability) == (20_000, 32, 0.5)
    assert blocks.rates == pytest.approx((1e-3, 1e-4, 4e-5))
    assert (blocks.beta(4000), blocks.weight(3999), blocks.beta(20_000)) == (20, 0, 2)
    assert (paper.posttraining.end_bits, paper.finetune.iterations) == (8, 0)
    # ours compares images: as many as of the others, on the same grid, and no label that nothing asked for
    assert differing(ours.synthesis, paper.synthesis) == {"num_images"}
    assert ours.synthesis.num_images == methods.recipe("intraq").synthesis.num_images
    assert (ours.posttraining, ours.finetune.label_weight) == (PostTrainingConfig(equalize_activations=True), 0)


@pytest.mark.parametrize("name", ["squant", "dfq", "rtn"])
def test_training_free_methods_use_no_image(name: str) -> None:
    found = methods.recipe(name)
    assert (found.images, found.finetune.iterations) == ("none", 0)
    assert found.finetune.calibration == "batch_norm"


def test_squant_as_published_does_no_more_than_round() -> None:
    paper, released, ours = (methods.recipe("squant", p).posttraining for p in ("paper", "released", "default"))
    assert paper == PostTrainingConfig(rounding="squant", narrow_ranges=True)
    assert released == PostTrainingConfig(rounding="squant", range_width=12.0)
    assert differing(ours, paper) == {"equalize_activations", "correct_biases"}


OF_THE_METHOD = {"label_weight", "perturbation"}  # its losses and images
OF_HAST = {
    *("feature_weight", "distillation_weight", "alignment", "balance"),
    *("crop_scale", "clean_weight", "perturbed_weight"),
}


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("name", ["hast", "zeroq_il", "dsg_il", "genie", "real_data"])
def test_default_gives_every_method_of_stored_images_the_same(name: str, dataset: str) -> None:
    """Reconstruction, optimizer, rate, warm-up, images held out; losses are the method's own."""
    found, other = (methods.recipe(n, "default", dataset) for n in (name, "intraq"))
    assert found.reconstruction == other.reconstruction
    assert found.reconstruction.iterations
    ours = found.finetune
    assert (ours.optimizer, ours.max_grad_norm, ours.learning_rate) == ("adamw", 0, 1e-3)
    assert (ours.schedule, ours.warmup, ours.held_out, ours.keep) == ("cosine", 0.1, 0.125, "best")
    allowed = {"hast": OF_THE_METHOD | OF_HAST, "genie": {"label_weight"}}.get(name, set())
    assert differing(ours, other.finetune) <= allowed


@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize("name", NAMES)
def test_published_presets_have_none_of_it(name: str, preset: str) -> None:
    found = methods.recipe(name, preset)
    assert not found.reconstruction.iterations or name == "genie"  # whose own it is
    ours = found.finetune
    assert (ours.warmup, ours.held_out, ours.keep, ours.balance) == (0, 0, "last", "fixed")
    assert ours.optimizer != "adamw"


def test_what_cannot_reconstruct_does_not() -> None:
    for name in NAMES:
        found = methods.recipe(name)
        stored = found.images in ("synthetic", "real")
        assert not found.reconstruction.iterations or (stored and found.finetune.iterations), name


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("reconstruction.iterations", 5, "0"),
        ("finetune.balance", "start", "'fixed'"),
        ("finetune.held_out", 0.5, "0.0"),
    ],
)
def test_a_generators_images_do_not_stay(name: str, value: Any, needed: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value!r}, which needs images that stay.* set it to {needed}"):
        methods.change(methods.recipe("gdfq"), {name: value})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": "video"}, "images is 'video'; allowed: 'synthetic', 'generated', 'real'"),
        ({"images": "none"}, "a recipe without images cannot fine-tune"),
    ],
)
def test_recipe_errors(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(SynthesisConfig(), FinetuneConfig(), **changed)


def test_ranges_without_images_need_another_source() -> None:
    tuning = FinetuneConfig(iterations=0)
    for wrong in (tuning, replace(tuning, calibration="batch_norm", shrink_ranges=True)):
        with pytest.raises(ValueError, match="a recipe without images finds ranges from"):
            Recipe(SynthesisConfig(), wrong, images="none")


def test_posttraining_is_off_unless_asked() -> None:
    for name in ("intraq", "zeroq_il", "dsg_il", "real_data"):
        assert methods.recipe(name).posttraining == PostTrainingConfig(equalize_activations=True)
    for preset in ("paper", "released"):
        for name in ("hast", "intraq", "zeroq_il", "real_data"):
            assert methods.recipe(name, preset).posttraining == PostTrainingConfig()
    for name in ("zeroq", "dsg"):  # ranges alone
        assert methods.recipe(name).posttraining == PostTrainingConfig()


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "imagenet"])
def test_hasts_default_matches_first_and_starts_from_squant(dataset: str) -> None:
    ours, paper = (methods.recipe("hast", preset, dataset) for preset in ("default", "paper"))
    assert ours.posttraining == PostTrainingConfig(rounding="squant", equalize_activations=True)
    assert ours.synthesis.label_weight == 0.1
    assert (ours.synthesis.noise, ours.synthesis.learning_rate) == ("natural", 0.1)
    assert (ours.synthesis.match_reduction, ours.synthesis.match_weight) == ("relative", 10)
    assert (ours.finetune.alignment, ours.finetune.crop_scale) == ("direct", (0.8, 1.0))
    assert paper.synthesis.match_reduction == "mse"
    assert (paper.finetune.alignment, paper.finetune.crop_scale) == ("relaxed", (0.5, 1.0))
    assert paper.synthesis.noise == "gaussian"
    assert ours.synthesis.difficulty_exponent == paper.synthesis.difficulty_exponent
    assert ours.synthesis.augment_probability == 0.5


@pytest.mark.parametrize("name", ["", "finetune", "finetune.", "finetune.x", "x.iterations", "."])
def test_change_refuses_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="changes has"):
        methods.change(methods.recipe(), {name: 1})
