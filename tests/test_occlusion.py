"""Covering: which pixels go, that nothing else changes, that regions lie where the face's parts are."""

from collections import Counter

import numpy as np
import pytest
import torch

from dualtl_lib import paper
from dualtl_lib.data import crop, regions
from dualtl_lib.evaluate import occlusion
from dualtl_lib.synthetic import faces as synthetic_faces


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(1, 256, (2, 3, 227, 227), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_regions_are_those_of_table_6():
    assert set(regions.REGIONS) == set(paper.TABLE6) - {"none"}


@pytest.mark.parametrize("region", regions.REGIONS)
@pytest.mark.parametrize("layout", regions.LAYOUTS)
def test_cover_blackens_the_region_and_nothing_else(images, region, layout):
    before, inside = images.clone(), regions.region_mask(region, layout=layout)
    covered = occlusion.cover(images, region, layout=layout)
    assert torch.equal(images, before) and covered.dtype == torch.uint8
    assert (covered[..., inside] == 0).all() and torch.equal(covered[..., ~inside], images[..., ~inside])
    assert 0.01 < inside.float().mean() < 0.5


@pytest.mark.parametrize("value", [0, 128, 255])
def test_the_box_may_have_another_grey(images, value):
    assert (occlusion.cover(images, "eyes", value)[..., regions.region_mask("eyes")] == value).all()


def test_halves_are_halves_of_the_mouth():
    mouth, left, bottom = (regions.region_mask(r) for r in ("mouth", "left half mouth", "bottom half mouth"))
    for half in (left, bottom):
        assert not (half & ~mouth).any()
        assert abs(half.sum() / mouth.sum() - 0.5) < 0.02
    columns, rows = mouth.nonzero()[:, 1].float(), mouth.nonzero()[:, 0].float()
    assert left.nonzero()[:, 1].float().mean() < columns.mean()  # the viewer's left
    assert bottom.nonzero()[:, 0].float().mean() > rows.mean()


def test_regions_do_not_overlap_and_mouth_and_eyes_is_both():
    mouth, eyes, rest = (regions.region_mask(r) for r in ("mouth", "eyes", "cheeks and forehead"))
    assert not (mouth & eyes | mouth & rest | eyes & rest).any()
    assert torch.equal(regions.region_mask("mouth and eyes"), mouth | eyes)


@pytest.fixture(scope="module")
def shares(tmp_path_factory):
    """shares(region, part): the share of a part, as drawn in 117 synthetic views of 6 people, that a region covers."""
    root = synthetic_faces.write_ckplus(tmp_path_factory.mktemp("faces") / "ckplus", subjects=6, workers=1)
    inside = {region: regions.region_mask(region).numpy() for region in regions.REGIONS}
    covered, whole = Counter(), Counter()
    for row in (root / "boxes.csv").read_text().splitlines()[1:]:
        file, (x, y, side) = row.split(",")[0], map(float, row.split(",")[1:])
        drawn = synthetic_faces.parts(root, file, crop.squared(x, y, side, side, (640, 490)))  # as CKPlus cuts it
        for half in ("left", "right"):
            drawn[f"{half} eye and brow"] = drawn[f"{half}_eye"] | drawn[f"{half}_brow"]
        rows, columns = np.indices(drawn["mouth"].shape)
        middle = [(line[drawn["mouth"]].min() + line[drawn["mouth"]].max()) / 2 for line in (rows, columns)]
        halves = {"top": rows < middle[0], "bottom": rows >= middle[0],
                  "left": columns < middle[1], "right": columns >= middle[1]}  # fmt: skip
        drawn |= {f"{half} of the mouth": drawn["mouth"] & there for half, there in halves.items()}
        for part, mask in drawn.items():
            whole[part] += mask.sum()
            covered.update({(region, part): (mask & there).sum() for region, there in inside.items()})
    return lambda region, part: covered[region, part] / whole[part]


EYES = ("left eye and brow", "right eye and brow")
CHEEKS_AND_FOREHEAD = ("left_cheek", "right_cheek", "forehead")


def test_regions_cover_the_parts_they_are_named_for(shares):
    assert shares("mouth", "mouth") >= 0.95
    for part in EYES:
        assert shares("eyes", part) >= 0.95
    for part in CHEEKS_AND_FOREHEAD:  # the drawn ones are larger: these reach to the nose, the ears and the hair
        assert shares("cheeks and forehead", part) >= 1 / 3


def test_regions_leave_the_other_parts_free(shares):
    for region, others in {
        "mouth": (*EYES, "forehead"),
        "eyes": ("mouth", "chin"),
        "cheeks and forehead": ("mouth", "nose", "left_eye", "right_eye"),
    }.items():
        for part in others:
            assert shares(region, part) < 0.02, (region, part)


def test_halves_lie_on_their_side_of_the_mouth(shares):
    for region, inner, outer in (("left half mouth", "left", "right"), ("bottom half mouth", "bottom", "top")):
        assert shares(region, f"{inner} of the mouth") > 0.7
        assert shares(region, f"{outer} of the mouth") < 0.3


def test_a_known_box_moves_the_region():
    inside = regions.region_mask("mouth", layout=(0.5, 0.25, 0.5)).nonzero().float() / 227
    left, top, right, bottom = regions.region_boxes("mouth")[0]
    expected = torch.tensor([0.25 + top / 2, 0.5 + left / 2]), torch.tensor([0.25 + bottom / 2, 0.5 + right / 2])
    assert torch.allclose(inside.amin(0), expected[0], atol=0.01)
    assert torch.allclose(inside.amax(0), expected[1], atol=0.01)


def test_celebas_regions_lie_on_the_aligned_eyes_and_mouth():
    # The aligned release puts the eyes near (69, 111) and (108, 111) and the mouth's corners near (73, 152) and
    # (105, 152) of 178x218; its centre square begins at row 20.
    def covered(x: int, y: int, region: str) -> bool:
        return bool(regions.region_mask(region, layout="celeba")[round((y - 20) / 178 * 227), round(x / 178 * 227)])

    assert covered(69, 111, "eyes") and covered(108, 111, "eyes")
    assert covered(73, 152, "mouth") and covered(105, 152, "mouth")
    assert not covered(69, 111, "mouth") and not covered(89, 152, "eyes")
    assert covered(73, 152, "left half mouth") and not covered(105, 152, "left half mouth")


def test_cover_box(images):
    covered = occlusion.cover_box(images, (0, 0.5, 1, 1), 7)
    assert (covered[..., 114:, :] == 7).all() and torch.equal(covered[..., :114, :], images[..., :114, :])


def test_errors_say_what_is_possible(images):
    with pytest.raises(ValueError, match=r"region is one of .*mouth and eyes"):
        occlusion.cover(images, "nose")
    with pytest.raises(ValueError, match="layout is one of detected, celeba"):
        occlusion.cover(images, "eyes", layout="sideways")
    with pytest.raises(ValueError, match="expected square uint8 images"):
        occlusion.cover(images.float(), "eyes")
    with pytest.raises(ValueError, match="grey value"):
        occlusion.cover(images, "eyes", 300)
    with pytest.raises(ValueError, match="a box is"):
        occlusion.cover_box(images, (0.5, 0, 0.4, 1))
