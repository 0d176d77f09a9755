"""Matrix products with activations: the forms that are faster somewhere give the values of the plain ones."""

import pytest
import torch

from clipseg_cli.model.linear import ACTIVATIONS, Linear, mlp


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_scaled_activation_between_two_products_changes_nothing(name: str) -> None:
    """As on a GPU, where no layout of oneDNN is used: within 1e-5, in float32, of the definition of the MLP."""
    torch.manual_seed(1)
    activation = ACTIVATIONS[name]
    up, down = Linear(torch.randn(48, 16), torch.randn(48)), Linear(torch.randn(16, 48) / 7, torch.randn(16))
    x = torch.randn(5, 16)
    defined = {
        "quick_gelu": lambda y: y * torch.sigmoid(1.702 * y),
        "gelu": torch.nn.functional.gelu,
        "relu": torch.relu,
    }[name]
    expected = defined(x @ up.weight.T + up.bias) @ down.weight.T + down.bias
    torch.testing.assert_close(down(up(x, activation)), expected, atol=1e-5, rtol=1e-5)
    gain = activation.gain
    scaled = Linear(up.weight * gain, up.bias * gain, fused=True), Linear(down.weight / gain, down.bias, fused=True)
    torch.testing.assert_close(scaled[1](scaled[0](x, activation)), expected, atol=1e-5, rtol=1e-5)
    halves = mlp(up, down, activation, torch.bfloat16, fused=False)
    torch.testing.assert_close(halves[1](halves[0](x, activation)).float(), expected, atol=0.1, rtol=0.1)
