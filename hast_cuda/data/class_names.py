"""What the classes of well-known data sets are called, in the order of their labels."""

from __future__ import annotations

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_SETS = {"cifar10": _CIFAR10, "cifar100": _CIFAR100, "digits": "0 1 2 3 4 5 6 7 8 9"}


def class_names(model: str, num_classes: int) -> tuple[str, ...]:
    """Names for the logits of a network whose own name ends in that of a data set; else none."""
    names = tuple(name.replace("_", " ") for name in _SETS.get(model.rpartition("_")[2], "").split())
    return names if len(names) == num_classes else ()
