"""Online normalization: what a stream of samples sees does not depend on how it is cut."""

import copy

import torch

from normbench import norms


def test_however_a_batch_is_cut_its_samples_and_their_gradients_are_the_same():
    torch.manual_seed(0)
    whole = norms.create("online", momentum=0.2, control=0.3).layer(4, 2).double()
    parts = copy.deepcopy(whole)
    x, up = torch.randn(2, 8, 4, 3, 3, dtype=torch.float64)
    first = [each.clone().requires_grad_() for each in x.split([5, 1, 2])]
    one = x.clone().requires_grad_()
    y = whole(one)
    y.backward(up)
    pieces = []
    for each, above in zip(first, up.split([5, 1, 2]), strict=True):
        pieces.append(parts(each))
        pieces[-1].backward(above)
    torch.testing.assert_close(torch.cat(pieces), y)
    torch.testing.assert_close(torch.cat([each.grad for each in first]), one.grad)
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[key], value)


def test_the_controller_makes_gradients_orthogonal_to_the_output_and_to_1():
    """On average over a long stream, as the gradient of batch normalization is in each batch."""
    torch.manual_seed(1)
    layer = norms.create("online", layer_scale=False, affine=False).layer(3, 0).double()
    along = torch.zeros(2, 3, dtype=torch.float64)
    for _ in range(200):
        x = torch.randn(64, 3, dtype=torch.float64).requires_grad_()
        y = layer(x)
        (y.square() / 2 + y).sum().backward()  # pushes along the output and along 1
        along += torch.stack([(x.grad * y.detach()).sum(0), x.grad.sum(0)])
    assert (along / (200 * 64)).abs().max() < 0.02  # each is 1 without the controller
