"""The gallery of strongest patches against the layer's feature maps and against single projections."""

import pytest
import torch
from projections import random_trunk, real_trunk, relative, some_images
from torch import nn

from dualtl_lib.models.caffenet import Trunk
from dualtl_lib.visualize import gallery
from dualtl_lib.visualize.deconvnet import Deconvnet

ASKED = dict(layer="conv1", maps=[5, 9], count=2, progress=False)


def test_gallery_finds_the_strongest_of_a_whole_data_set():
    images, net = some_images(7), Deconvnet(real_trunk())
    found = gallery.gallery(net, images, "conv3", maps=[5, 9], count=3, progress=False)
    strength = net.feature_maps(images, "conv3").flatten(2).amax(2)[:, [4, 8]]
    expected = strength.T.sort(dim=1, descending=True, stable=True)
    assert torch.equal(found.activations, expected.values[:, :3])
    assert torch.equal(found.images, expected.indices[:, :3])
    assert found.patches.shape[:3] == (2, 3, 3) and found.pictures.shape == found.patches.shape
    for m in range(2):
        for k in range(3):
            i = int(found.images[m, k])
            alone = net.reconstruct_each(images[i : i + 1], "conv3", maps=[[5, 9][m]])
            assert relative(found.patches[m, k], alone.patches[0]) < 1e-6
            top, left, side = int(alone.tops[0]), int(alone.lefts[0]), alone.patches.shape[-1]
            padded = nn.functional.pad(images[i], (side,) * 4)
            expected = padded[:, top + side : top + 2 * side, left + side : left + 2 * side]
            assert torch.equal(found.pictures[m, k], expected)


def test_a_gallery_reads_one_image_at_a_time():
    images = some_images(4)

    class OnDisk:
        def __len__(self):
            return len(images)

        def __getitem__(self, index):
            assert len(range(len(images))[index]) == 1
            return images[index].numpy()

    read, held = (gallery.gallery(Deconvnet(random_trunk()), these, **ASKED) for these in (OnDisk(), images))
    assert all(torch.equal(a, b) for a, b in zip(vars(read).values(), vars(held).values(), strict=True))


def test_of_equals_a_gallery_takes_the_first_images_and_sorts_no_later_one(monkeypatch):
    sorts, strongest = [], gallery.strongest
    monkeypatch.setattr(gallery, "strongest", lambda *args: sorts.append(1) or strongest(*args))
    images, count = some_images(1).expand(19, -1, -1, -1), 17  # of so many, a sort that is not stable loses the order
    found = gallery.gallery(Deconvnet(random_trunk()), images, **ASKED | dict(count=count))
    assert found.images.tolist() == [list(range(count))] * 2 and len(sorts) == count


@pytest.mark.parametrize(
    "change, names",
    [
        *((dict(count=n), "count.* 1 to 2") for n in (0, 3, 1.0, "1", None)),
        *((dict(maps=[m]), "map of conv1.* 1 to 96") for m in (97, 1.0)),
        (dict(layer="conv6"), "'conv6'"),
        (dict(images=some_images(2).float()), "images.*float32"),
        (dict(images=some_images(2)[:0]), "count"),
    ],
)
def test_a_gallery_refuses_what_does_not_exist(change, names):
    with pytest.raises(ValueError, match=names):
        gallery.gallery(Deconvnet(Trunk()), **dict(images=some_images(2)) | ASKED | change)
