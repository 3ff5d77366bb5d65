"""Precision: the context of a computation leaves PyTorch's settings as they were."""

import pytest
import torch

from dualtl_lib.models import precision

CONVOLUTIONS, PRODUCTS = torch.backends.cudnn.conv, torch.backends.cuda.matmul


@pytest.fixture
def tf32():
    """TF32 everywhere, as somebody may have set it."""
    before = CONVOLUTIONS.fp32_precision, PRODUCTS.fp32_precision
    CONVOLUTIONS.fp32_precision = PRODUCTS.fp32_precision = "tf32"
    yield
    CONVOLUTIONS.fp32_precision, PRODUCTS.fp32_precision = before


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize(
    ("name", "device", "inside"),
    [("float32", "cpu", "tf32"), ("bfloat16", "cuda", "tf32"), ("float32", "cuda", "ieee")],
)
def test_float32_on_a_gpu_is_not_tf32_within_the_context_only(tf32, name, device, inside):
    with pytest.raises(KeyError), precision.autocast(name, torch.device(device)):
        assert CONVOLUTIONS.fp32_precision == PRODUCTS.fp32_precision == inside
        raise KeyError
    assert CONVOLUTIONS.fp32_precision == PRODUCTS.fp32_precision == "tf32"


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_are_computed_in_the_precision(name, dtype):
    a = torch.ones(2, 2)
    with precision.autocast(name, torch.device("cpu")):
        assert (a @ a).dtype == dtype
    assert (a @ a).dtype == torch.float32
